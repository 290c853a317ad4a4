//! What a command answers: the fields of an `OK`, or a refusal with its code and text.

use std::borrow::Cow;

use crate::tracker::store::StoreError;

/// What every command returns.
pub type Answer = Result<Fields, Refusal>;

/// The fields of an `OK` line, in the order they were added.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields(Vec<(Cow<'static, str>, Cow<'static, [u8]>)>);

impl Fields {
    /// No fields yet. An `OK` without any is a usual answer.
    #[must_use]
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Adds a field that is bytes or text.
    pub fn text(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Fields {
        self.0.push((name.into(), Cow::Owned(value.into())));
        self
    }

    /// Adds a field that is a number.
    pub fn number(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl std::fmt::Display,
    ) -> &mut Fields {
        self.text(name, value.to_string())
    }

    /// The fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

/// An `ERR` line: a code for programs, a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code, never escaped.
    pub code: &'static str,
    /// The text.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with the text that goes with this code.
    #[must_use]
    pub fn new(code: &'static str) -> Refusal {
        Refusal {
            code,
            text: Cow::Borrowed(text_of(code)),
        }
    }

    /// A refusal with a text of its own.
    #[must_use]
    pub fn with_text(code: &'static str, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            code,
            text: text.into(),
        }
    }
}

/// The database refused: the client learns `failure`, as from any tracker; the log learns why.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a request failed in the tracker database"
        );
        Refusal::new("failure")
    }
}

/// The fixed text of a code. A code without one repeats itself.
fn text_of(code: &'static str) -> &'static str {
    match code {
        "after_mismatch" => "Pattern does not match the after-value?",
        "bad_params" => "Invalid parameters to command; please see documentation",
        "class_exists" => "That class already exists in that domain",
        "class_has_files" => "Class still has files, unable to delete",
        "class_not_found" => "Class not found",
        "db" => "Database error",
        "domain_exists" => "That domain already exists",
        "domain_has_files" => "Domain still has files, unable to delete",
        "domain_not_found" => "Domain not found",
        "dup" => "Duplicate name/number used.",
        "failure" => "Operation failed",
        "host_exists" => "That host already exists",
        "host_mismatch" => "The device specified doesn't belong to the host specified",
        "host_not_empty" => "Unable to delete host; it contains devices still",
        "host_not_found" | "unknown_host" => "Host not found",
        "invalid_mindevcount" => "The mindevcount must be at least 1",
        "key_exists" => "Target key name already exists; can't overwrite.",
        "no_class" => "No class provided",
        "no_device" => "Device not found",
        "no_devices" => "No devices found to store file",
        "no_domain" => "No domain provided",
        "no_host" => "No host provided",
        "no_ip" => "IP required to create host",
        "no_port" => "Port required to create host",
        "no_rebal_policy" => "No rebalance policy available",
        "no_rebal_state" => "No available rebalance status",
        "no_temp_file" => "No tempfile or file already closed",
        "nodel_default_class" => "Cannot delete the default class",
        "none_match" => "No keys match that pattern and after-value (if any).",
        "rebal_not_started" => "Rebalance not running",
        "state_too_high" => "Status cannot go from dead to alive; must use down",
        "unknown_command" => "Unknown server command",
        "unknown_state" => "Invalid/unknown state",
        "unreg_domain" => "Domain name invalid/not found",
        code => code,
    }
}
