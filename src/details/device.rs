//! The device on which a customer signed in.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::invalid::{InvalidDetails, is_short_line, is_shown};

/// A device as the application describes it, for the customer to recognize in a list of sessions.
///
/// None of it is verified or compared: a client can claim to be any browser. Take the address from the
/// connection, or from a header that your own proxy has set.
///
/// ```
/// use customer_session::Device;
///
/// let device = Device::new("Jane's phone")
///     .user_agent("Mozilla/5.0 (Android 16; Mobile)")
///     .ip([203, 0, 113, 7]);
/// assert_eq!(device.label, "Jane's phone");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "DeviceFields")]
#[non_exhaustive]
pub struct Device {
    /// The name that the customer knows it by, or an empty text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// The user agent, as the header `User-Agent` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The address from which the customer signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

/// The fields before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFields {
    #[serde(default)]
    label: String,
    user_agent: Option<String>,
    ip: Option<IpAddr>,
}

impl Device {
    /// The length of the longest label, in bytes.
    pub const MAX_LABEL_LEN: usize = 128;

    /// The length of the longest user agent, in bytes.
    pub const MAX_USER_AGENT_LEN: usize = 512;

    /// Creates a device with a name that the customer knows it by. The name may be empty.
    ///
    /// One that is longer than [`MAX_LABEL_LEN`](Self::MAX_LABEL_LEN), or holds a control character,
    /// is refused when the session is issued.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..Self::default()
        }
    }

    /// Sets the user agent, as the header `User-Agent` has it.
    ///
    /// One that is longer than [`MAX_USER_AGENT_LEN`](Self::MAX_USER_AGENT_LEN), or holds a control
    /// character, is refused when the session is issued. For what a client sends, there is
    /// [`user_agent_lossy`](Self::user_agent_lossy).
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets the user agent from the bytes of a header, which the client has written: what is not text,
    /// control characters and what is too long are left out or replaced, so that no client is refused
    /// for it.
    ///
    /// ```
    /// use customer_session::Device;
    ///
    /// let device = Device::default().user_agent_lossy(b"curl/8\t\xff");
    /// assert_eq!(device.user_agent.as_deref(), Some("curl/8\u{fffd}"));
    /// ```
    #[must_use]
    pub fn user_agent_lossy(self, header: &[u8]) -> Self {
        let mut text = String::new();
        for character in String::from_utf8_lossy(header)
            .chars()
            .filter(|character| is_shown(*character))
        {
            if text.len() + character.len_utf8() > Self::MAX_USER_AGENT_LEN {
                break;
            }
            text.push(character);
        }
        self.user_agent(text)
    }

    /// Sets the address from which the customer signed in.
    #[must_use]
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ip = Some(ip.into());
        self
    }

    pub(super) fn check(&self) -> Result<(), InvalidDetails> {
        if !is_short_line(&self.label, Self::MAX_LABEL_LEN) {
            return Err(InvalidDetails::new(
                "the label of a device must be at most 128 bytes, without control characters",
            ));
        }
        let user_agent = self.user_agent.as_deref().unwrap_or_default();
        if !is_short_line(user_agent, Self::MAX_USER_AGENT_LEN) {
            return Err(InvalidDetails::new(
                "the user agent of a device must be at most 512 bytes, without control characters",
            ));
        }
        Ok(())
    }
}

impl TryFrom<DeviceFields> for Device {
    type Error = InvalidDetails;

    fn try_from(fields: DeviceFields) -> Result<Self, InvalidDetails> {
        let device = Self {
            label: fields.label,
            user_agent: fields.user_agent,
            ip: fields.ip,
        };
        device.check()?;
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_bounds() {
        let at_most = Device::new("l".repeat(128)).user_agent("u".repeat(512));
        assert_eq!(at_most.check(), Ok(()));
        let header = "é\u{202e}\n".repeat(1000).into_bytes();
        let cut = Device::default().user_agent_lossy(&header);
        assert_eq!(cut.check(), Ok(()));
        assert_eq!(cut.user_agent, Some("é".repeat(256)));
        for (device, says) in [
            (Device::new("l".repeat(129)), "label"),
            (Device::new("a\u{1b}[2J"), "label"),
            (Device::new("phone\u{202e}"), "label"),
            (Device::new("").user_agent("u".repeat(513)), "user agent"),
            (Device::new("").user_agent("a\r\nb"), "user agent"),
        ] {
            let error = device.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
