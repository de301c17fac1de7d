//! Signing out of sessions that Polar keeps, and cannot end.

use std::time::Duration;

use customer_session::{
    AuthenticateError, CustomerSessions, SessionToken,
    polar::PolarStore,
    store::{MemoryStore, Revocable},
};
use test_support::receive;

use super::{
    fake_polar::{FakePolar, Fault, JANE, PLAIN},
    found,
};

const HOUR: Duration = Duration::from_secs(3600);

type Node = CustomerSessions<Revocable<PolarStore, MemoryStore>>;

/// Returns a node with a `PolarStore` and caches of its own, over a list that all nodes share.
fn node(polar: &FakePolar, list: &MemoryStore) -> Node {
    let store = Revocable::new(polar.store(), list.clone()).max_lifetime(HOUR);
    CustomerSessions::builder(store).build()
}

async fn assert_refused(node: &Node, token: &SessionToken) {
    let refused = node.authenticate(token).await.expect_err("it was ended");
    assert!(
        matches!(refused, AuthenticateError::InvalidToken),
        "{refused}"
    );
}

#[tokio::test]
async fn a_customer_signs_out_on_one_node_and_is_refused_on_all() {
    let (polar, list) = (FakePolar::start().await, MemoryStore::new());
    let (here, there) = (node(&polar, &list), node(&polar, &list));
    let (token, other) = (polar.customer_token(JANE), polar.customer_token(JANE));
    let current = here.authenticate(&token).await.expect("live");
    there.authenticate(&token).await.expect("live");
    assert!(here.revoke(&current.id).await.expect("ended"));
    assert_refused(&here, &token).await;
    let message = customer_session::Invalidation::Session(current.id.clone());
    receive(&there, [message]).await;
    assert_refused(&there, &token).await;

    // Polar itself still finds it.
    found(&polar.store(), &token).await;
    here.authenticate(&other).await.expect("another session");
    // A node that starts later.
    assert_refused(&node(&polar, &list), &token).await;
}

#[tokio::test]
async fn a_customer_signs_out_everywhere_or_everywhere_else() {
    let (polar, list) = (FakePolar::start().await, MemoryStore::new());
    let here = node(&polar, &list);
    let tokens = [(); 2].map(|()| polar.customer_token(JANE));
    let foreign = polar.customer_token(PLAIN);
    let current = here.authenticate(&tokens[0]).await.expect("live");
    let owner = current.customer_id.clone();
    here.authenticate(&tokens[1]).await.expect("live");
    here.revoke_others(&owner, &current.id).await.expect("done");
    assert_refused(&here, &tokens[1]).await;
    here.authenticate(&tokens[0]).await.expect("kept");

    assert!(here.revoke_token(&tokens[0]).await.expect("ended"));
    here.revoke_customer(&owner).await.expect("done");
    for token in &tokens {
        assert_refused(&here, token).await;
        assert_refused(&node(&polar, &list), token).await;
    }
    here.authenticate(&foreign)
        .await
        .expect("another customer's");
}

#[tokio::test]
async fn a_customer_signs_out_while_polar_is_down() {
    let (polar, list) = (FakePolar::start().await, MemoryStore::new());
    let (here, token) = (node(&polar, &list), polar.customer_token(JANE));
    let current = here.authenticate(&token).await.expect("live");
    polar.fault("/", Fault::down());
    assert!(here.revoke(&current.id).await.expect("ended"));
    polar.clear_faults();
    assert_refused(&node(&polar, &list), &token).await;
}
