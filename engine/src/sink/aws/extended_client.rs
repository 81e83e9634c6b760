//! Large messages: bodies that are larger than a queue takes go to S3, and pointers to the queue, by the convention of AWS's
//! extended client libraries, whose consumers read them.
//! <https://github.com/awslabs/amazon-sqs-java-extended-client-lib>

use anyhow::anyhow;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use rowmill_core::envelope::push_string;

use super::super::OpenError;
use super::account::Account;
use super::error::describe;
use crate::config::LargeMessages;

/// The attribute that tells a consumer that a body is a pointer: its value is the size of the stored body in bytes.
pub(in crate::sink) const SIZE_ATTRIBUTE: &str = "ExtendedPayloadSize";

/// A bucket for large bodies.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Store {
    client: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
}

/// A body that is stored, or is to be stored, in a bucket.
#[derive(Debug)]
pub(in crate::sink) struct Stored {
    key: String,
    /// The body that the message has instead.
    pub pointer: String,
    /// The bytes of the stored body, as the value of [`SIZE_ATTRIBUTE`].
    pub size: String,
    /// The body, until it is stored.
    body: Option<Bytes>,
}

impl Store {
    /// Opens the bucket of `large_messages`.
    ///
    /// # Errors
    /// If the bucket does not exist, or cannot be reached. Whether it may be written to shows at the first large message.
    pub async fn open(account: &Account, large_messages: &LargeMessages) -> Result<Self, OpenError> {
        let LargeMessages { bucket, prefix, endpoint_url } = large_messages;
        let client = account.s3(endpoint_url.as_deref());
        if let Err(error) = client.head_bucket().bucket(bucket).send().await {
            let is_missing = error.as_service_error().is_some_and(|error| error.is_not_found());
            if is_missing {
                return Err(OpenError::Definite(anyhow!(
                    "cannot use bucket `{bucket}`: it does not exist; create the bucket, or correct `large_messages`"
                )));
            }
            // HeadBucket takes another permission than PutObject, so that a refusal does not count.
            if error.raw_response().is_none() {
                return Err(OpenError::Transient(anyhow!("cannot reach bucket `{bucket}`: {}", describe(&error))));
            }
        }
        Ok(Self { client, bucket: bucket.clone(), prefix: prefix.clone() })
    }

    /// Returns a body to be stored, with a key of its own: a consumer may delete the object that it has read.
    pub fn place(&self, body: Bytes) -> Stored {
        let key = format!("{}{:032x}", self.prefix, rand::random::<u128>());
        let mut pointer = b"[\"software.amazon.payloadoffloading.PayloadS3Pointer\",{\"s3BucketName\":".to_vec();
        push_string(&self.bucket, &mut pointer);
        pointer.extend_from_slice(b",\"s3Key\":");
        push_string(&key, &mut pointer);
        pointer.extend_from_slice(b"}]");
        let pointer = String::from_utf8(pointer).expect("JSON is written as UTF-8");
        Stored { key, pointer, size: body.len().to_string(), body: Some(body) }
    }

    /// Stores a body, unless it is stored already.
    ///
    /// # Errors
    /// If the body cannot be stored now; a later attempt may succeed.
    pub async fn put(&self, stored: &mut Stored) -> Result<(), String> {
        let Some(body) = &stored.body else { return Ok(()) };
        let object =
            self.client.put_object().bucket(&self.bucket).key(&stored.key).body(ByteStream::from(body.clone()));
        if let Err(error) = object.send().await {
            let text = match (error.code(), error.message()) {
                (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
                _ => describe(&error),
            };
            let bucket = &self.bucket;
            return Err(format!("cannot store a large message in bucket `{bucket}` (s3:PutObject): {text}"));
        }
        stored.body = None;
        Ok(())
    }
}
