//! Bodies that are larger than a queue takes: they go to S3, and their places to the queue, by the convention of
//! AWS's extended client libraries, whose consumers read them.
//! <https://github.com/awslabs/amazon-sqs-java-extended-client-lib>

use anyhow::anyhow;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use rowmill_core::envelope::push_string;

use super::super::OpenError;
use super::super::aws::{Account, describe};
use crate::config::LargeMessages;

/// The attribute that tells a consumer that a body is a place: its value is the bytes there.
pub(super) const SIZE_ATTRIBUTE: &str = "ExtendedPayloadSize";

/// A bucket that takes bodies.
#[derive(Debug, Clone)]
pub(super) struct Store {
    client: aws_sdk_s3::Client,
    bucket: String,
    prefix: String,
}

/// A body that is, or is to be, in a bucket.
#[derive(Debug)]
pub(super) struct Stored {
    key: String,
    /// The message's body instead.
    pub pointer: String,
    /// Bytes of what it points to.
    pub size: usize,
    /// What isn't in the bucket yet.
    body: Option<Bytes>,
}

impl Store {
    /// # Errors
    /// If the bucket isn't there. Whether it may be written to shows when something is.
    pub async fn open(account: &Account, large_messages: &LargeMessages) -> Result<Self, OpenError> {
        let LargeMessages { bucket, prefix, endpoint_url } = large_messages;
        let client = account.s3(endpoint_url.as_deref());
        if let Err(error) = client.head_bucket().bucket(bucket).send().await {
            let is_missing = error.as_service_error().is_some_and(|error| error.is_not_found());
            if is_missing {
                return Err(OpenError::Definite(anyhow!(
                    "there is no bucket `{bucket}`; create it, or mend `large_messages`"
                )));
            }
            // To look at a bucket takes another permission than to write into it.
            if error.raw_response().is_none() {
                return Err(OpenError::Transient(anyhow!("the bucket `{bucket}`: {}", describe(&error))));
            }
        }
        Ok(Self { client, bucket: bucket.clone(), prefix: prefix.clone() })
    }

    /// A place for a body. Each has its own: a consumer may remove what it has read.
    pub fn place(&self, body: Bytes) -> Stored {
        let key = format!("{}{:032x}", self.prefix, rand::random::<u128>());
        let mut pointer = b"[\"software.amazon.payloadoffloading.PayloadS3Pointer\",{\"s3BucketName\":".to_vec();
        push_string(&self.bucket, &mut pointer);
        pointer.extend_from_slice(b",\"s3Key\":");
        push_string(&key, &mut pointer);
        pointer.extend_from_slice(b"}]");
        let pointer = String::from_utf8(pointer).expect("JSON is written as UTF-8");
        Stored { key, pointer, size: body.len(), body: Some(body) }
    }

    /// Puts a body where it is to be, unless it is there.
    ///
    /// # Errors
    /// Why it isn't there: it may be tried again.
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
            return Err(format!("a large message can't be put into the bucket `{bucket}` (s3:PutObject): {text}"));
        }
        stored.body = None;
        Ok(())
    }
}
