//! The classes of SQS's error codes: whether the same message may be accepted later.
//!
//! A known code decides alone. The flag `SenderFault` counts only for unknown codes, as SQS also sets it where the sender is
//! not at fault, such as when KMS throttles.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html#API_SendMessageBatch_Errors>
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_Errors>
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>

use Class::{Definite, Operator, Throttled, Transient};

use super::super::remote::Class;

const KMS: &str = "enable the key, and grant kms:GenerateDataKey and kms:Decrypt on it";
const QUEUE: &str = "recreate the queue, or correct `queue_url`";
const ENDPOINT: &str = "check `queue_url`, `endpoint_url` and the proxy: the answer is not from SQS";
const RIGHTS: &str = "grant sqs:SendMessage and sqs:GetQueueAttributes on the queue";
const KEYS: &str = "provide valid credentials; they are read again at each attempt";
const CLOCK: &str = "check the credentials and this machine's clock";

/// Classes by code. An answer's code is looked up without a prefix up to `#` and without `AWS.SimpleQueueService.`, both with
/// and without its suffix `Exception`.
const CLASSES: &[(&str, Class)] = &[
    // The message or the request is wrong.
    ("InvalidMessageContents", Definite),
    ("BatchRequestTooLong", Definite),
    ("InvalidParameterValue", Definite),
    ("InvalidParameterCombination", Definite),
    ("InvalidAttributeName", Definite),
    ("InvalidAttributeValue", Definite),
    ("MissingParameter", Definite),
    ("InvalidBatchEntryId", Definite),
    ("BatchEntryIdsNotDistinct", Definite),
    ("TooManyEntriesInBatchRequest", Definite),
    ("MissingRequiredParameter", Definite),
    ("MalformedInput", Definite),
    ("MalformedHttpRequest", Definite),
    ("RequestEntityTooLarge", Definite),
    ("Serialization", Definite),
    ("Validation", Definite),
    ("ValidationError", Definite),
    ("HTTP 413", Definite),
    // The service throttles.
    ("RequestThrottled", Throttled),
    ("Throttled", Throttled),
    ("Throttling", Throttled),
    ("ThrottledException", Throttled),
    ("RequestLimitExceeded", Throttled),
    ("RequestThrottledException", Throttled),
    ("TooManyRequests", Throttled),
    ("BandwidthLimitExceeded", Throttled),
    ("LimitExceeded", Throttled),
    ("ProvisionedThroughputExceeded", Throttled),
    ("PriorRequestNotComplete", Throttled),
    ("SlowDown", Throttled),
    ("TransactionInProgress", Throttled),
    ("EC2Throttled", Throttled),
    ("OverLimit", Throttled),
    ("KmsThrottled", Throttled),
    ("KMS.Throttling", Throttled),
    ("KMS.LimitExceeded", Throttled),
    ("HTTP 429", Throttled),
    // The service fails.
    ("InternalError", Transient),
    ("InternalFailure", Transient),
    ("InternalServerError", Transient),
    ("InternalService", Transient),
    ("ServiceUnavailable", Transient),
    ("RequestTimeout", Transient),
    ("RequestAborted", Transient),
    ("HTTP 408", Transient),
    ("KMS.Internal", Transient),
    ("KMS.DependencyTimeout", Transient),
    // The queue's KMS key.
    ("KmsAccessDenied", Operator(KMS)),
    ("KmsDisabled", Operator(KMS)),
    ("KmsInvalidKeyUsage", Operator(KMS)),
    ("KmsInvalidState", Operator(KMS)),
    ("KmsNotFound", Operator(KMS)),
    ("KmsOptInRequired", Operator(KMS)),
    ("KMS.AccessDenied", Operator(KMS)),
    ("KMS.Disabled", Operator(KMS)),
    ("KMS.InvalidKeyUsage", Operator(KMS)),
    ("KMS.InvalidState", Operator(KMS)),
    ("KMS.KMSInvalidState", Operator(KMS)),
    ("KMS.NotFound", Operator(KMS)),
    ("KMS.OptInRequired", Operator(KMS)),
    // The queue, the endpoint, the permissions, the credentials, the clock.
    ("NonExistentQueue", Operator(QUEUE)),
    ("QueueDoesNotExist", Operator(QUEUE)),
    ("QueueDeletedRecently", Operator(QUEUE)),
    ("InvalidAddress", Operator(QUEUE)),
    ("UnsupportedOperation", Operator(QUEUE)),
    ("UnknownOperation", Operator(ENDPOINT)),
    ("HTTP 405", Operator(ENDPOINT)),
    ("HTTP 407", Operator(ENDPOINT)),
    ("AccessDenied", Operator(RIGHTS)),
    ("NotAuthorized", Operator(RIGHTS)),
    ("OptInRequired", Operator(RIGHTS)),
    ("Forbidden", Operator(RIGHTS)),
    ("HTTP 401", Operator(RIGHTS)),
    ("HTTP 403", Operator(RIGHTS)),
    ("HTTP 404", Operator(ENDPOINT)),
    ("ExpiredToken", Operator(KEYS)),
    ("InvalidAccessKeyId", Operator(KEYS)),
    ("InvalidClientTokenId", Operator(KEYS)),
    ("InvalidSecurity", Operator(KEYS)),
    ("MissingAuthenticationToken", Operator(KEYS)),
    ("UnrecognizedClient", Operator(KEYS)),
    ("IncompleteSignature", Operator(CLOCK)),
    ("InvalidSignature", Operator(CLOCK)),
    ("SignatureDoesNotMatch", Operator(CLOCK)),
    ("RequestExpired", Operator(CLOCK)),
    ("RequestInTheFuture", Operator(CLOCK)),
    ("AuthFailure", Operator(CLOCK)),
    ("RequestTimeTooSkewed", Operator(CLOCK)),
];

/// Returns the class of a code. `sender_fault` says whether the service blames the sender, by an entry's flag or HTTP status
/// 4xx.
pub(super) fn class(code: &str, sender_fault: bool) -> Class {
    let code = code.rsplit('#').next().unwrap_or(code);
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    let without_suffix = code.strip_suffix("Exception").unwrap_or(code);
    let is = |known: &str| known.eq_ignore_ascii_case(code) || known.eq_ignore_ascii_case(without_suffix);
    match CLASSES.iter().find(|(known, _)| is(known)) {
        Some((_, class)) => *class,
        // A problem of a key is never one of a message.
        None if code.starts_with("KMS.") || code.starts_with("Kms") => Transient,
        // A refusal by a proxy, or one without a code, does not blame the message unless it is "bad request".
        None if sender_fault && !code.starts_with("HTTP ") => Class::Unknown,
        None if code == "HTTP 400" => Class::Unknown,
        None => Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_and_not_the_flag() {
        for (code, expected) in [
            ("KMS.ThrottlingException", Throttled),
            ("KmsThrottled", Throttled),
            ("com.amazonaws.sqs#RequestThrottled", Throttled),
            ("ThrottlingException", Throttled),
            ("AWS.SimpleQueueService.NonExistentQueue", Operator(QUEUE)),
            ("AccessDeniedException", Operator(RIGHTS)),
            ("KMS.DisabledException", Operator(KMS)),
            ("InternalError", Transient),
            ("KMS.SomethingNewException", Transient),
            ("SerializationException", Definite),
            ("InvalidMessageContents", Definite),
            ("AWS.SimpleQueueService.BatchRequestTooLong", Definite),
            ("ValidationException", Definite),
        ] {
            for sender_fault in [true, false] {
                assert_eq!(class(code, sender_fault), expected, "{code}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_the_messages_fault_only_if_the_sender_is_to_blame() {
        assert_eq!(class("SomethingNew", true), Class::Unknown);
        assert_eq!(class("SomethingNew", false), Transient);
        assert_eq!(class("HTTP 400", true), Class::Unknown);
        assert_eq!(class("HTTP 418", true), Transient);
        assert_eq!(class("HTTP 503", false), Transient);
    }

    #[test]
    fn no_code_is_listed_twice() {
        for (nth, (code, _)) in CLASSES.iter().enumerate() {
            assert!(!CLASSES[..nth].iter().any(|(other, _)| other == code), "{code}");
        }
    }
}
