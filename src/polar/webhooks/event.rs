//! The events of Polar's webhooks.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    polar::json,
};

/// The event of a delivery whose signature was verified.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Identifies the delivery: Polar repeats one under the same identifier.
    pub id: String,
    /// Kind of the event.
    pub kind: EventKind,
    /// Time of the event.
    pub timestamp: DateTime<Utc>,
    /// The customer that it concerns, if it names one.
    pub customer_id: Option<CustomerId>,
    /// The customer as it is now, in the events about customers. After
    /// [`CustomerDeleted`](EventKind::CustomerDeleted) its `external_id` is `None`.
    pub customer: Option<Customer>,
}

/// The kind of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
#[non_exhaustive]
pub enum EventKind {
    /// `customer.created`
    CustomerCreated,
    /// `customer.updated`
    CustomerUpdated,
    /// `customer.deleted`
    CustomerDeleted,
    /// `customer.state_changed`: subscriptions, benefits or meters, or the customer. A
    /// [`WebhookService`](crate::polar::WebhookService) applies it only if the customer's
    /// `modified_at` is newer than that of an event which it has applied.
    CustomerStateChanged,
    /// Anything else, by Polar's name for it.
    Other(String),
}

impl From<String> for EventKind {
    fn from(kind: String) -> Self {
        match kind.as_str() {
            "customer.created" => Self::CustomerCreated,
            "customer.updated" => Self::CustomerUpdated,
            "customer.deleted" => Self::CustomerDeleted,
            "customer.state_changed" => Self::CustomerStateChanged,
            _ => Self::Other(kind),
        }
    }
}

impl Event {
    /// Returns what must no longer be trusted: the customer, after it or one of its members was changed
    /// or deleted, with the time of the change if the event has it. `None` means that nothing cached has
    /// changed.
    pub fn invalidation(&self) -> Option<Invalidation> {
        let concerns_sessions = match &self.kind {
            EventKind::CustomerCreated => false,
            EventKind::CustomerUpdated
            | EventKind::CustomerDeleted
            | EventKind::CustomerStateChanged => true,
            // The sessions of a member who has left the team end with that.
            EventKind::Other(kind) => kind.starts_with("member."),
        };
        let id = self.customer_id.clone().filter(|_| concerns_sessions)?;
        Some(match self.changed_at() {
            Some(modified_at) => Invalidation::CustomerChanged { id, modified_at },
            None => Invalidation::Customer(id),
        })
    }

    /// Returns the time of the customer's last change, in the events about customers.
    pub(super) fn changed_at(&self) -> Option<DateTime<Utc>> {
        let customer = self.customer.as_ref()?;
        customer.modified_at.max(customer.deleted_at)
    }

    /// Reads an event; `None` if the body cannot be read.
    pub(super) fn read(id: &str, body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            r#type: EventKind,
            timestamp: DateTime<Utc>,
        }
        #[derive(Deserialize)]
        struct Of<T> {
            data: T,
        }
        #[derive(Deserialize)]
        struct Named {
            id: CustomerId,
        }
        #[derive(Deserialize)]
        struct OfCustomer {
            customer_id: CustomerId,
        }
        let envelope: Envelope = json::from_slice(body).ok()?;
        let (customer_id, customer) = match envelope.r#type {
            // Polar may change the shape of these events.
            EventKind::Other(_) => {
                let of: Option<Of<OfCustomer>> = json::from_slice(body).ok();
                (of.map(|of| of.data.customer_id), None)
            }
            // The customer's id is required, even where the rest cannot be read.
            _ => {
                let of: Of<Named> = json::from_slice(body).ok()?;
                let whole: Option<Of<Customer>> = json::from_slice(body).ok();
                (Some(of.data.id), whole.map(|of| of.data))
            }
        };
        Some(Self {
            id: id.to_owned(),
            kind: envelope.r#type,
            timestamp: envelope.timestamp,
            customer_id,
            customer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, data: &str) -> Option<Event> {
        let timestamp = "2030-01-01T00:00:00.000001Z";
        let body = format!(r#"{{"type":"{kind}","timestamp":"{timestamp}","data":{data}}}"#);
        Event::read("msg_1", body.as_bytes())
    }

    #[test]
    fn an_event_invalidates_the_customer_it_is_about() {
        let customer = |id: &str| Some(Invalidation::Customer(id.into()));
        let member = r#"{"id":"mem_1","customer_id":"cus_1"}"#;
        for (kind, data, invalidation) in [
            ("customer.updated", r#"{"id":"cus_1"}"#, customer("cus_1")),
            ("customer.deleted", r#"{"id":"cus_1"}"#, customer("cus_1")),
            (
                "customer.state_changed",
                r#"{"id":"cus_1"}"#,
                customer("cus_1"),
            ),
            ("customer.created", r#"{"id":"cus_1"}"#, None),
            ("member.deleted", member, customer("cus_1")),
            (
                "order.paid",
                r#"{"id":"ord_1","customer_id":"cus_1"}"#,
                None,
            ),
            ("organization.updated", r#"{"id":"org_1"}"#, None),
        ] {
            let event = read(kind, data).expect(kind);
            assert_eq!(event.invalidation(), invalidation, "{kind}");
            assert_eq!(event.customer, None, "{kind}: there is too little of it");
        }
    }

    #[test]
    fn the_time_of_a_change_comes_with_the_invalidation() {
        let customer = |times: &str| {
            let others =
                r#""id":"cus_1","created_at":"2029-01-01T00:00:00Z","organization_id":"o""#;
            format!("{{{others}{times}}}")
        };
        let modified = r#","modified_at":"2030-01-01T00:00:00.000001Z""#;
        let deleted =
            r#","modified_at":"2030-01-01T00:00:00Z","deleted_at":"2030-01-01T00:00:00.000001Z""#;
        let only_deleted = r#","modified_at":null,"deleted_at":"2030-01-01T00:00:00.000001Z""#;
        let changed = Invalidation::CustomerChanged {
            id: "cus_1".into(),
            modified_at: "2030-01-01T00:00:00.000001Z".parse().expect("a time"),
        };
        let number = &format!(r#"{modified},"metadata":{{"n":1e400}}"#);
        let unknown = Invalidation::Customer("cus_1".into());
        for (kind, times, invalidation) in [
            ("customer.updated", modified, changed.clone()),
            ("customer.state_changed", modified, changed.clone()),
            ("customer.deleted", deleted, changed.clone()),
            ("customer.deleted", only_deleted, changed.clone()),
            ("customer.updated", "", unknown),
            // A number that no `f64` can hold.
            ("customer.updated", number, changed.clone()),
        ] {
            let event = read(kind, &customer(times)).expect(kind);
            assert_eq!(event.invalidation(), Some(invalidation), "{kind}: {times}");
            assert!(event.customer.is_some(), "{kind}: {times}");
        }
        assert_eq!(
            read("customer.created", &customer(modified))
                .expect("an event")
                .invalidation(),
            None
        );
    }

    #[test]
    fn an_event_about_a_customer_must_say_which() {
        assert_eq!(read("customer.deleted", r#"{"external_id":"usr_1"}"#), None);
        assert_eq!(read("customer.deleted", "null"), None);
        assert_eq!(Event::read("msg_1", b""), None);
    }
}
