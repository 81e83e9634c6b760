//! Texts of SDK errors.

use std::error::Error;

/// Texts that name only the part of the SDK that failed.
const EMPTY_WORDS: [&str; 8] = [
    "dispatch failure",
    "service error",
    "unhandled error",
    "io error",
    "other",
    "client error (connect)",
    "an error occurred while loading credentials",
    "the credential provider was not enabled",
];

/// Returns the text of an SDK error: the texts of its causes, each once, without the names of the SDK's parts, and at the end
/// the user's fix where one is known.
pub(in crate::sink) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let is_empty = EMPTY_WORDS.contains(&text.to_ascii_lowercase().as_str());
        // Some errors repeat the texts of their causes.
        said.retain(|earlier| !text.contains(earlier.as_str()));
        if !is_empty && !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
        cause = error.source();
    }
    if said.is_empty() {
        said.push(error.to_string());
    }
    let text = said.join(": ");
    let has = |words: &str| text.to_ascii_lowercase().contains(words);
    let fix = if has("no providers in chain provided credentials") || has("no credentials provider") {
        "; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role of EC2, ECS or EKS"
    } else if has("missing region") || has("region must be set") {
        "; set `region`, or AWS_REGION"
    } else {
        ""
    };
    text + fix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn causes_are_said_once_and_parts_not_at_all() {
        let chain = |texts: &[&'static str]| {
            let made = texts.iter().rev().fold(None, |source, text| Some(Box::new(Said(text, source))));
            describe(&*made.expect("one at least"))
        };
        assert_eq!(
            chain(&[
                "dispatch failure",
                "io error",
                "client error (Connect)",
                "tcp connect error",
                "Connection refused"
            ]),
            "tcp connect error: Connection refused"
        );
        assert_eq!(chain(&["service error", "AccessDenied: no", "AccessDenied: no"]), "AccessDenied: no");
        assert!(chain(&["dispatch failure", "no providers in chain provided credentials"]).contains("set AWS_PROFILE"));
        assert_eq!(chain(&["dispatch failure"]), "dispatch failure");
    }
}
