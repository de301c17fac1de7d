//! What a list of a customer's sessions shows.

use std::time::Duration;

use customer_session::{Page, SessionPage};

use crate::fixture::Fixture;
use test_support::{HOUR, customer};

/// Sessions of the customer, of which every other one has expired.
const SESSIONS: usize = 2_500;

async fn pages(fixture: &Fixture, first: Page) -> Vec<SessionPage> {
    let (mut pages, mut page) = (Vec::new(), first.clone());
    loop {
        let read = fixture.sessions.list_page(&"cus_2".into(), &page).await;
        let read = read.expect("a page");
        let next = read.next.clone();
        pages.push(read);
        match next {
            Some(cursor) => {
                let after = Page::after(cursor).with_size(first.size());
                let with_expired = Page::default().with_size(first.size()).with_expired();
                page = if first == with_expired {
                    after.with_expired()
                } else {
                    after
                };
            }
            None => return pages,
        }
    }
}

#[tokio::test]
async fn a_list_has_live_sessions_alone_and_whole_pages_of_them() {
    let fixture = Fixture::new(|builder| builder).await;
    let mut live = Vec::new();
    for number in 0..SESSIONS {
        fixture.clock.advance(Duration::from_millis(1));
        let ttl = if number % 2 == 0 { 2 * HOUR } else { HOUR };
        let issued = fixture.sessions.issue(customer("cus_2"), ttl).await;
        if number % 2 == 0 {
            live.push(issued.expect("issued").id);
        }
    }
    fixture.clock.advance(HOUR + HOUR / 2);
    let all = fixture.sessions.list(&"cus_2".into()).await;
    let all: Vec<_> = all
        .expect("a list")
        .into_iter()
        .map(|session| session.id)
        .collect();
    assert_eq!(all, live);

    let read = pages(&fixture, Page::default().with_size(600)).await;
    let sizes: Vec<_> = read.iter().map(|page| page.sessions.len()).collect();
    assert_eq!(sizes, [600, 600, 50]);
    let ids = read.into_iter().flat_map(|page| page.sessions);
    assert_eq!(ids.map(|session| session.id).collect::<Vec<_>>(), live);

    let with_expired = Page::default().with_size(1000).with_expired();
    let read = pages(&fixture, with_expired).await;
    let sizes: Vec<_> = read.iter().map(|page| page.sessions.len()).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}
