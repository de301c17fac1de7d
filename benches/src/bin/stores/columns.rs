//! The statements of the SQL stores, written by hand.

pub const COLUMNS: [&str; 18] = [
    "id",
    "organization_id",
    "created_at",
    "modified_at",
    "metadata",
    "external_id",
    "email",
    "email_verified",
    "kind",
    "name",
    "billing_name",
    "billing_address",
    "tax_id",
    "locale",
    "default_payment_method_id",
    "deleted_at",
    "first_user_event_at",
    "avatar_url",
];

/// The statement of a lookup, which reads all that a session has.
pub const FIND: &str = "SELECT s.id, s.token_hash, s.created_at, s.modified_at, s.expires_at, c.id, \
     c.organization_id, c.created_at, c.modified_at, CAST(c.metadata AS text), c.external_id, \
     c.email, c.email_verified, c.kind, c.name, c.billing_name, \
     CAST(c.billing_address AS text), CAST(c.tax_id AS text), c.locale, \
     c.default_payment_method_id, c.deleted_at, c.first_user_event_at, c.avatar_url, \
     s.ends_at, s.authenticated_at, s.details, u.used_at FROM customer_sessions s JOIN customer_session_epochs e ON e.customer_id = s.customer_id \
     AND e.epoch = s.epoch JOIN customer_session_customers c ON c.id = s.customer_id \
     LEFT JOIN customer_session_uses u ON u.session_id = s.id WHERE s.token_hash IN ($1)";

/// Returns the statement that inserts or updates a customer.
pub fn upsert(json: &str) -> String {
    let values = (1..).zip(COLUMNS).map(|(n, column)| match column {
        "metadata" | "billing_address" | "tax_id" => format!("CAST(${n} AS {json})"),
        _ => format!("${n}"),
    });
    let (values, set): (Vec<_>, Vec<_>) = values
        .zip(COLUMNS.map(|column| format!("{column} = excluded.{column}")))
        .unzip();
    format!(
        "INSERT INTO customer_session_customers ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}",
        COLUMNS.join(", "),
        values.join(", "),
        set[1..].join(", ")
    )
}

/// Binds a session as the SQL stores do; `$time` makes a parameter of a time.
macro_rules! bind_customer {
    ($query:expr, $session:expr, $time:expr) => {{
        let customer = &$session.customer;
        let metadata = serde_json::to_string(&customer.metadata).expect("JSON");
        $query
            .bind(customer.id.as_str().to_owned())
            .bind(customer.organization_id.as_str().to_owned())
            .bind($time(customer.created_at))
            .bind(customer.modified_at.map($time))
            .bind(metadata)
            .bind(customer.external_id.clone())
            .bind(customer.email.clone())
            .bind(customer.email_verified)
            .bind("individual")
            .bind(customer.name.clone())
            .bind(customer.billing_name.clone())
            .bind(None::<String>)
            .bind(None::<String>)
            .bind(customer.locale.clone())
            .bind(customer.default_payment_method_id.clone())
            .bind(customer.deleted_at.map($time))
            .bind(customer.first_user_event_at.map($time))
            .bind(customer.avatar_url.clone())
    }};
}

/// Reads every column of a row as the driver gives it.
macro_rules! read {
    ($row:expr, $time:ty) => {{
        let row = $row;
        for place in [0, 5, 6, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 22, 25] {
            std::hint::black_box(row.get::<Option<String>, usize>(place));
        }
        for place in [2, 3, 4, 7, 8, 20, 21, 23, 24, 26] {
            std::hint::black_box(row.get::<Option<$time>, usize>(place));
        }
        std::hint::black_box(row.get::<Vec<u8>, usize>(1));
        std::hint::black_box(row.get::<bool, usize>(12));
    }};
}

pub(crate) use {bind_customer, read};
