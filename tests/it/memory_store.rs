//! `MemoryStore` beyond the contract of every store.

use customer_session::{
    CustomerData, CustomerSession, SessionRegistry as _, SessionStore as _, SessionToken,
    store::MemoryStore,
};

use test_support::{HOUR, RegistryExt as _};

#[tokio::test]
async fn a_deleted_customer_keeps_its_data_when_its_only_session_is_replaced() {
    let store = MemoryStore::new();
    let mut data = CustomerData::new("cus_1", "org_1");
    data.name = Some("Jane".into());
    let session = |id: &str| {
        let end = chrono::Utc::now() + HOUR;
        CustomerSession::new(id, SessionToken::new(id), data.clone(), end)
    };
    store.insert(&session("a"), None).await.expect("inserted");
    let mut deleted = data.clone();
    deleted.deleted_at = Some(chrono::Utc::now());
    assert!(store.update_customer(&deleted.into()).await.expect("known"));
    let replaced = store.swap(&"a".into(), &session("b")).await;
    let replaced = replaced.expect("an answer").expect("it was there");
    assert_eq!(replaced.customer.name.as_deref(), Some("Jane"));
    let found = store.find(&replaced.token).await.expect("an answer");
    assert_eq!(found, Some(replaced));
}
