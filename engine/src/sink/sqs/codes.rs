//! What a refusal's code says: whether the same message may be accepted later.
//!
//! The code decides and never the flag `SenderFault`, which SQS also sets where the sender can do nothing about it: where
//! KMS throttles, say.
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html#API_SendMessageBatch_Errors>
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_Errors>
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>

/// What a refusal says of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It will never be accepted, for what it is.
    Definite,
    /// Too much at a time, of a queue or of its key: it may be accepted later.
    Throttled,
    /// It may be accepted later.
    Transient,
    /// It may be accepted once somebody changed something, as this says.
    Operator(&'static str),
    /// The code isn't known, and the sender is said to be at fault: it may be the message, or anything else.
    Unknown,
}

use Class::{Definite, Operator, Throttled, Transient};

const KMS: &str = "let the key be enabled, and let the user have kms:GenerateDataKey and kms:Decrypt on it";
const QUEUE: &str = "create the queue again, or correct `queue_url`";
const ENDPOINT: &str = "check `queue_url`, `endpoint_url` and the proxy: something else answers than SQS";
const RIGHTS: &str = "let the user have sqs:SendMessage and sqs:GetQueueAttributes on the queue";
const KEYS: &str = "give it credentials that are valid; they are read again each time";
const CLOCK: &str = "check the credentials and this machine's clock";

/// By their codes without what stands before the last `#` or the first dot of `AWS.SimpleQueueService.`, in no order.
const CLASSES: &[(&str, Class)] = &[
    // The message, or the request that has it.
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
    // Too much.
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
    // The service.
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
    // The key of the queue.
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
    // The queue, and who asks.
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

/// By a code, and by whether the service says that the sender is at fault: by an entry's flag, or HTTP status 4xx.
pub(super) fn class(code: &str, sender_fault: bool) -> Class {
    let code = code.rsplit('#').next().unwrap_or(code);
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    let without_suffix = code.strip_suffix("Exception").unwrap_or(code);
    let is = |known: &str| known.eq_ignore_ascii_case(code) || known.eq_ignore_ascii_case(without_suffix);
    match CLASSES.iter().find(|(known, _)| is(known)) {
        Some((_, class)) => *class,
        // A proxy's refusal, or one without a code, says nothing of the message unless it is "bad request".
        // What is wrong with a key is never wrong with a message.
        None if code.starts_with("KMS.") || code.starts_with("Kms") => Transient,
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
