//! Histories written by hand, with violations that the checker must find, and without.
//! Times are in milliseconds; another node may be behind by 1000.

use std::time::Duration;

use super::{
    checker::{Delay, Findings, Promise, check, delays},
    record::{Answer, Event, Lag, Span, What},
};

const ISSUED: What = What::Issue {
    customer: 7,
    version: 1,
    session: Some(1),
    is_new: true,
};
const REVOKED: What = What::Revoke {
    session: 1,
    found: Some(true),
};
const IN_DOUBT: What = What::Revoke {
    session: 1,
    found: None,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(node: usize, start: u64, end: u64, what: What) -> Event {
    Event {
        node,
        start: ms(start),
        end: ms(end),
        what,
    }
}

fn asks(node: usize, start: u64, end: u64, answer: Answer) -> Event {
    at(node, start, end, What::Authenticate { session: 1, answer })
}

fn let_in(node: usize, start: u64) -> Event {
    asks(node, start, start + 1, Answer::LetIn { version: 1 })
}

fn refused(node: usize, start: u64) -> Event {
    asks(node, start, start + 1, Answer::Refused)
}

fn update(version: i64, known: Option<bool>) -> What {
    What::Update {
        customer: 7,
        version,
        known,
    }
}

fn revoke_all(ended: Option<()>) -> What {
    What::RevokeCustomer { customer: 7, ended }
}

/// Returns the findings in `history`, which begins with the session issued on node 0 from 0 to 10.
fn found(events: &[Event]) -> Findings {
    found_with(events, &[])
}

fn found_with(events: &[Event], lags: &[Lag]) -> Findings {
    let mut history = vec![at(0, 0, 10, ISSUED)];
    history.extend_from_slice(events);
    let promise = Promise {
        bound: ms(1000),
        max_wait: ms(300),
        store_lag: Duration::ZERO,
    };
    check(&history, &promise, lags)
}

/// Returns the number of each finding, in the order of [`Findings::all`].
fn counts(events: &[Event]) -> [usize; 5] {
    found(events).all().map(|(_, violations)| violations.len())
}

const CLEAN: [usize; 5] = [0; 5];
const STALE: [usize; 5] = [1, 0, 0, 0, 0];
const REFUSED: [usize; 5] = [0, 1, 0, 0, 0];
const HUNG: [usize; 5] = [0, 0, 1, 0, 0];
const OUTDATED: [usize; 5] = [0, 0, 0, 1, 0];
const MISTAKEN: [usize; 5] = [0, 0, 0, 0, 1];

#[test]
fn the_node_that_revoked_lets_no_request_in() {
    let revoked = at(0, 20, 30, REVOKED);
    assert_eq!(counts(&[revoked.clone(), let_in(0, 31)]), STALE);
    // It began before the revocation had returned.
    assert_eq!(counts(&[revoked.clone(), let_in(0, 30)]), CLEAN);
    assert_eq!(counts(&[revoked, refused(0, 31)]), CLEAN);
}

#[test]
fn other_nodes_may_be_behind_by_the_bound_and_no_more() {
    let revoked = at(0, 20, 30, REVOKED);
    assert_eq!(counts(&[revoked.clone(), let_in(1, 1030)]), CLEAN);
    assert_eq!(counts(&[revoked, let_in(1, 1031)]), STALE);
}

#[test]
fn every_way_of_ending_counts() {
    let none = What::Revoke {
        session: 1,
        found: Some(false),
    };
    let rotated = What::Rotate {
        session: 1,
        new: Some(Some(2)),
    };
    for ending in [none, rotated, revoke_all(Some(()))] {
        let first = at(1, 15, 18, IN_DOUBT);
        let events = [first, at(0, 20, 30, ending.clone()), let_in(0, 40)];
        assert_eq!(counts(&events), STALE, "{ending:?}");
    }
}

#[test]
fn a_rotation_that_lost_has_ended_nothing() {
    let lost = What::Rotate {
        session: 1,
        new: Some(None),
    };
    let won = at(1, 15, 18, IN_DOUBT);
    let lost = at(0, 20, 30, lost);
    // Its node had not received the message yet; it has until the bound.
    assert_eq!(counts(&[won.clone(), lost.clone(), let_in(0, 40)]), CLEAN);
    assert_eq!(counts(&[won, lost.clone(), let_in(0, 1040)]), STALE);
    // And another rotation must have won.
    assert_eq!(counts(&[lost]), REFUSED);
}

#[test]
fn a_live_session_is_not_refused() {
    assert_eq!(counts(&[refused(1, 20)]), REFUSED);
    // An operation began to end it while the request was under way.
    assert_eq!(counts(&[refused(1, 20), at(0, 20, 90, REVOKED)]), CLEAN);
    assert_eq!(counts(&[refused(1, 20), at(0, 21, 90, REVOKED)]), REFUSED);
    let none = What::Revoke {
        session: 1,
        found: Some(false),
    };
    assert_eq!(counts(&[at(0, 20, 30, none)]), REFUSED);
}

#[test]
fn after_a_change_of_unknown_outcome_the_session_may_be_dead_or_alive() {
    let in_doubt = at(0, 20, 30, IN_DOUBT);
    let later = [in_doubt, let_in(0, 40), refused(0, 50), let_in(1, 9000)];
    assert_eq!(counts(&later), CLEAN);
    let in_doubt = at(0, 20, 30, revoke_all(None));
    assert_eq!(counts(&[in_doubt, let_in(0, 40), refused(0, 50)]), CLEAN);
}

#[test]
fn ending_all_of_a_customers_sessions_ends_those_that_were_there() {
    // Issued while it was under way: either is possible. Issued later: it is live.
    let before = at(1, 4, 6, revoke_all(Some(())));
    assert_eq!(counts(&[before.clone(), let_in(1, 20)]), CLEAN);
    assert_eq!(counts(&[before, refused(1, 20)]), CLEAN);
    let mut long_before = vec![at(1, 0, 1, revoke_all(Some(())))];
    long_before.push(at(
        0,
        10,
        20,
        What::Issue {
            customer: 7,
            version: 2,
            session: Some(2),
            is_new: true,
        },
    ));
    let answer = Answer::Refused;
    let what = What::Authenticate { session: 2, answer };
    long_before.push(at(0, 30, 31, what));
    assert_eq!(counts(&long_before), REFUSED);
    // Unless it is not known when it was over.
    long_before[0] = at(1, 0, 1, revoke_all(None));
    assert_eq!(counts(&long_before), CLEAN);
}

#[test]
fn ending_the_others_ends_all_but_one_family() {
    let others = |keep, ended| What::RevokeOthers {
        customer: 7,
        keep,
        ended,
    };
    let rotated = What::Rotate {
        session: 1,
        new: Some(Some(2)),
    };
    let of_second = |node, start, answer| {
        let what = What::Authenticate { session: 2, answer };
        at(node, start, start + 1, what)
    };
    let let_in = |node, start| of_second(node, start, Answer::LetIn { version: 1 });
    let refused = of_second(0, 60, Answer::Refused);
    let rotated = at(0, 20, 30, rotated);
    // Another session is kept.
    let ended = at(0, 40, 50, others(9, Some(())));
    let after = |event| [rotated.clone(), ended.clone(), event];
    assert_eq!(counts(&after(refused.clone())), CLEAN);
    assert_eq!(counts(&after(let_in(0, 60))), STALE);
    assert_eq!(counts(&after(let_in(1, 1050))), CLEAN);
    assert_eq!(counts(&after(let_in(1, 1051))), STALE);
    // This one is, by its own id or by that of the session that it has replaced.
    for keep in [1, 2] {
        let kept = at(0, 40, 50, others(keep, Some(())));
        let after = |event| [rotated.clone(), kept.clone(), event];
        assert_eq!(counts(&after(let_in(1, 1051))), CLEAN);
        assert_eq!(counts(&after(refused.clone())), REFUSED);
    }
    let in_doubt = at(0, 40, 50, others(9, None));
    assert_eq!(counts(&[rotated.clone(), in_doubt.clone(), refused]), CLEAN);
    assert_eq!(counts(&[rotated, in_doubt, let_in(0, 60)]), CLEAN);
}

#[test]
fn a_session_created_by_a_rotation_is_checked_like_any_other() {
    let rotated = What::Rotate {
        session: 1,
        new: Some(Some(2)),
    };
    let of_second = |start, answer| {
        let what = What::Authenticate { session: 2, answer };
        at(0, start, start + 1, what)
    };
    let rotated = at(0, 20, 30, rotated);
    let ended = at(0, 40, 50, revoke_all(Some(())));
    let refused = of_second(35, Answer::Refused);
    assert_eq!(counts(&[rotated.clone(), refused]), REFUSED);
    let stale = of_second(51, Answer::LetIn { version: 1 });
    assert_eq!(counts(&[rotated, ended, stale]), STALE);
}

/// Two rotations: of the first session into the second, and of that into the third.
fn rotated_twice() -> [Event; 2] {
    [(1, 2, 20), (2, 3, 40)].map(|(session, new, start)| {
        let new = Some(Some(new));
        at(0, start, start + 10, What::Rotate { session, new })
    })
}

#[test]
fn revoking_a_replaced_session_ends_its_successors() {
    let [one, two] = rotated_twice();
    let of_third = |node, start, answer| {
        let what = What::Authenticate { session: 3, answer };
        at(node, start, start + 1, what)
    };
    let let_in = |node, start| of_third(node, start, Answer::LetIn { version: 1 });
    for session in 1..=3 {
        let found = Some(true);
        let revoked = at(0, 60, 70, What::Revoke { session, found });
        let after = |event| counts(&[one.clone(), two.clone(), revoked.clone(), event]);
        assert_eq!(after(let_in(0, 71)), STALE, "{session}");
        assert_eq!(after(let_in(1, 1070)), CLEAN, "{session}");
        assert_eq!(after(let_in(1, 1071)), STALE, "{session}");
        assert_eq!(after(of_third(0, 71, Answer::Refused)), CLEAN, "{session}");
        // While the last rotation was under way: there is no third session that survives it.
        let meanwhile = at(1, 42, 48, What::Revoke { session, found });
        let events = [one.clone(), two.clone(), meanwhile, let_in(1, 60)];
        assert_eq!(counts(&events), STALE, "{session}");
        // Of unknown outcome.
        let found = None;
        let in_doubt = at(0, 60, 70, What::Revoke { session, found });
        let refused = of_third(0, 80, Answer::Refused);
        let events = [one.clone(), two.clone(), in_doubt, let_in(0, 71), refused];
        assert_eq!(counts(&events), CLEAN, "{session}");
    }
    assert_eq!(
        counts(&[one, two, of_third(0, 60, Answer::Refused)]),
        REFUSED
    );
}

#[test]
fn revoking_a_replaced_session_finds_its_live_successor() {
    let [one, two] = rotated_twice();
    for session in 1..=3 {
        let found = Some(false);
        let none = at(0, 60, 70, What::Revoke { session, found });
        let events = [one.clone(), two.clone(), none.clone()];
        assert_eq!(counts(&events), REFUSED, "{session}");
        let ended = at(1, 55, 58, revoke_all(Some(())));
        let events = [one.clone(), two.clone(), ended, none];
        assert_eq!(counts(&events), CLEAN, "{session}");
    }
}

/// The derivation of the second session from the first.
fn derived(start: u64) -> Event {
    derivation(start, 1, Some(Some(2)))
}

fn derivation(start: u64, parent: u32, child: Option<Option<u32>>) -> Event {
    at(0, start, start + 10, What::Derive { parent, child })
}

fn rotation(start: u64, session: u32, new: u32) -> Event {
    let new = Some(Some(new));
    at(0, start, start + 10, What::Rotate { session, new })
}

fn revocation(node: usize, start: u64, session: u32, found: Option<bool>) -> Event {
    at(node, start, start + 10, What::Revoke { session, found })
}

fn keeping(start: u64, keep: u32, ended: Option<()>) -> Event {
    let customer = 7;
    let others = What::RevokeOthers {
        customer,
        keep,
        ended,
    };
    at(0, start, start + 10, others)
}

/// A request with a session that is let in.
fn let_in_by(session: u32, node: usize, start: u64) -> Event {
    let answer = Answer::LetIn { version: 1 };
    let what = What::Authenticate { session, answer };
    at(node, start, start + 1, what)
}

/// A request with a session that is refused.
fn refused_by(session: u32, node: usize, start: u64) -> Event {
    let answer = Answer::Refused;
    let what = What::Authenticate { session, answer };
    at(node, start, start + 1, what)
}

#[test]
fn a_derived_session_ends_with_its_parent() {
    let revoked = revocation(0, 40, 1, Some(true));
    for ending in [
        revoked,
        at(0, 40, 50, revoke_all(Some(()))),
        keeping(40, 9, Some(())),
    ] {
        let after = |event| counts(&[derived(20), ending.clone(), event]);
        assert_eq!(after(let_in_by(2, 0, 51)), STALE, "{ending:?}");
        assert_eq!(after(let_in_by(2, 1, 1050)), CLEAN, "{ending:?}");
        assert_eq!(after(let_in_by(2, 1, 1051)), STALE, "{ending:?}");
        assert_eq!(after(refused_by(2, 0, 51)), CLEAN, "{ending:?}");
        // No derivation carries a session over the end of its parent.
        let meanwhile = [derived(45), ending.clone(), let_in_by(2, 0, 60)];
        assert_eq!(counts(&meanwhile), STALE, "{ending:?}");
    }
    let in_doubt = revocation(0, 40, 1, None);
    let events = [
        derived(20),
        in_doubt,
        let_in_by(2, 0, 60),
        refused_by(2, 0, 70),
    ];
    assert_eq!(counts(&events), CLEAN);
}

#[test]
fn a_derived_session_ends_with_any_id_of_its_parent() {
    // The first session is rotated into the third before, and into the fourth after the derivation from
    // the third; the derived one is rotated into the fifth.
    let descent = [
        rotation(20, 1, 3),
        derivation(40, 3, Some(Some(2))),
        rotation(60, 3, 4),
        rotation(80, 2, 5),
    ];
    for session in [1, 3, 4] {
        let revoked = revocation(0, 100, session, Some(true));
        let after = |event| counts(&[&descent[..], &[revoked.clone(), event]].concat());
        assert_eq!(after(let_in_by(5, 0, 111)), STALE, "{session}");
        assert_eq!(after(let_in_by(4, 0, 111)), STALE, "{session}");
        assert_eq!(after(refused_by(5, 0, 111)), CLEAN, "{session}");
    }
    // A rotation of the parent, or of the derived session, ends nothing else.
    for live in [4, 5] {
        let refused = refused_by(live, 0, 111);
        assert_eq!(
            counts(&[&descent[..], &[refused]].concat()),
            REFUSED,
            "{live}"
        );
    }
    let early = [rotation(20, 1, 3), derivation(40, 3, Some(Some(2)))];
    let after = |event| counts(&[&early[..], &[rotation(60, 3, 4), event]].concat());
    assert_eq!(after(refused_by(2, 0, 80)), REFUSED);
    assert_eq!(after(let_in_by(2, 0, 80)), CLEAN);
}

#[test]
fn a_revoked_derived_session_ends_alone() {
    let siblings = [
        derived(20),
        derivation(40, 1, Some(Some(3))),
        rotation(60, 2, 4),
    ];
    for session in [2, 4] {
        let revoked = revocation(0, 80, session, Some(true));
        let after = |event| counts(&[&siblings[..], &[revoked.clone(), event]].concat());
        assert_eq!(after(let_in_by(4, 0, 91)), STALE, "{session}");
        assert_eq!(after(refused_by(4, 0, 91)), CLEAN, "{session}");
        for live in [1, 3] {
            assert_eq!(after(refused_by(live, 0, 91)), REFUSED, "{session}, {live}");
            assert_eq!(after(let_in_by(live, 1, 1091)), CLEAN, "{session}, {live}");
        }
    }
}

#[test]
fn ending_the_others_keeps_a_whole_tree() {
    let tree = [
        derived(20),
        derivation(40, 1, Some(Some(3))),
        rotation(60, 1, 4),
        rotation(80, 2, 5),
    ];
    for keep in [1, 2, 3, 4, 5] {
        let others = keeping(100, keep, Some(()));
        let after = |event| counts(&[&tree[..], &[others.clone(), event]].concat());
        for kept in [3, 4, 5] {
            assert_eq!(after(refused_by(kept, 0, 111)), REFUSED, "{keep}, {kept}");
            assert_eq!(after(let_in_by(kept, 1, 1111)), CLEAN, "{keep}, {kept}");
        }
    }
    // A derived session that may have been revoked may lead to no tree.
    for (revoked, of_fourth) in [
        (revocation(1, 95, 2, None), CLEAN),
        (revocation(1, 115, 2, None), REFUSED),
    ] {
        let events = |event| {
            [
                &tree[..],
                &[revoked.clone(), keeping(100, 5, Some(())), event],
            ]
            .concat()
        };
        assert_eq!(counts(&events(refused_by(4, 0, 130))), of_fourth);
        assert_eq!(counts(&events(refused_by(3, 0, 130))), of_fourth);
        assert_eq!(counts(&events(let_in_by(4, 0, 130))), CLEAN);
    }
    // With the parent that is kept all of it has ended anyway.
    let revoked = revocation(1, 95, 1, None);
    let events = [
        &tree[..],
        &[revoked, keeping(100, 4, Some(())), refused_by(5, 0, 130)],
    ]
    .concat();
    assert_eq!(counts(&events), CLEAN);
}

#[test]
fn a_live_parent_and_its_live_derived_sessions_are_found() {
    assert_eq!(counts(&[derived(20), refused_by(2, 0, 40)]), REFUSED);
    // The token of a live session opens one.
    assert_eq!(counts(&[derivation(20, 1, Some(None))]), REFUSED);
    let revoked = revocation(1, 15, 1, None);
    assert_eq!(counts(&[revoked, derivation(20, 1, Some(None))]), CLEAN);
    // A revocation of the parent finds the derived session that is left, and both if they are live.
    let none = |session| revocation(0, 40, session, Some(false));
    let both: [usize; 5] = [0, 2, 0, 0, 0];
    assert_eq!(counts(&[derived(20), none(1)]), both);
    assert_eq!(counts(&[derived(20), none(2)]), REFUSED);
    // Nothing is known of one whose derivation is in doubt.
    assert_eq!(counts(&[derivation(20, 1, None), none(1)]), REFUSED);
    let ended = at(1, 35, 38, revoke_all(Some(())));
    assert_eq!(counts(&[derived(20), ended, none(1)]), CLEAN);
}

#[test]
fn a_rotated_session_is_as_old_as_the_first_of_its_family() {
    let rotated = rotation(20, 1, 2);
    let meanwhile = at(1, 25, 28, revoke_all(Some(())));
    let later = [rotated.clone(), meanwhile.clone(), let_in_by(2, 1, 40)];
    assert_eq!(counts(&later), STALE);
    assert_eq!(counts(&[rotated, meanwhile, refused_by(2, 1, 40)]), CLEAN);
}

#[test]
fn an_old_customer_is_not_seen_after_an_update() {
    let updated = at(0, 20, 30, update(2, Some(true)));
    assert_eq!(counts(&[updated.clone(), let_in(0, 30)]), CLEAN);
    assert_eq!(counts(&[updated.clone(), let_in(0, 31)]), OUTDATED);
    assert_eq!(counts(&[updated.clone(), let_in(1, 1030)]), CLEAN);
    assert_eq!(counts(&[updated, let_in(1, 1031)]), OUTDATED);
    // Issuing a session adds a customer that the store does not know, and changes no other. The store
    // has forgotten one whose sessions had all ended, of which the node that issues may yet hear.
    let issued = |is_new| {
        let session = Some(2);
        let (customer, version) = (7, 2);
        let issued = What::Issue {
            customer,
            version,
            session,
            is_new,
        };
        at(0, 20, 30, issued)
    };
    for node in [0, 1] {
        assert_eq!(counts(&[issued(true), let_in(node, 1030)]), CLEAN);
        assert_eq!(counts(&[issued(true), let_in(node, 1031)]), OUTDATED);
        assert_eq!(counts(&[issued(false), let_in(node, 1031)]), CLEAN);
    }
}

#[test]
fn a_session_shows_no_customer_older_than_itself() {
    let updated = at(0, 20, 30, update(2, Some(true)));
    let sees = |start, session| {
        let answer = Answer::LetIn { version: 1 };
        at(1, start, start + 1, What::Authenticate { session, answer })
    };
    for (issued, expected) in [(30, CLEAN), (31, OUTDATED)] {
        let known = What::Issue {
            customer: 7,
            version: 3,
            session: Some(2),
            is_new: false,
        };
        let issued = at(1, issued, 40, known);
        assert_eq!(counts(&[updated.clone(), issued, sees(50, 2)]), expected);
    }
}

#[test]
fn any_of_several_concurrent_updates_may_be_the_last() {
    let seen = asks(0, 60, 61, Answer::LetIn { version: 2 });
    let first = |end| at(0, 20, end, update(2, Some(true)));
    let second = at(0, 40, 50, update(3, Some(true)));
    assert_eq!(counts(&[first(30), second.clone(), seen.clone()]), OUTDATED);
    assert_eq!(counts(&[first(45), second.clone(), seen.clone()]), CLEAN);
    // One of unknown outcome may happen at any time.
    let in_doubt = at(0, 20, 30, update(2, None));
    assert_eq!(counts(&[in_doubt, second.clone(), seen.clone()]), CLEAN);
    // One of unknown outcome, or that found nothing to replace, replaces nothing for certain.
    for known in [None, Some(false)] {
        let second = at(0, 40, 50, update(3, known));
        assert_eq!(counts(&[first(30), second, seen.clone()]), CLEAN);
    }
    assert_eq!(counts(&[seen]), OUTDATED, "it was never written");
}

#[test]
fn a_request_that_waits_too_long_is_found_unless_its_runtime_was_late() {
    let hung = asks(0, 100, 450, Answer::Failed);
    assert_eq!(counts(std::slice::from_ref(&hung)), HUNG);
    assert_eq!(counts(&[asks(0, 100, 400, Answer::Failed)]), CLEAN);
    let lag = |node, start, by| Lag {
        node,
        span: Span {
            start: ms(start),
            end: ms(start + by),
        },
        by: ms(by),
    };
    let excused = |lags: &[Lag]| found_with(std::slice::from_ref(&hung), lags).excused;
    assert_eq!(excused(&[lag(0, 110, 50)]), 1);
    assert_eq!(excused(&[lag(0, 110, 30), lag(0, 300, 20)]), 1);
    // Too little, on another node, at another time.
    assert_eq!(excused(&[lag(0, 110, 49)]), 0);
    assert_eq!(excused(&[lag(1, 110, 50)]), 0);
    assert_eq!(excused(&[lag(0, 450, 50)]), 0);
}

#[test]
fn a_request_let_in_by_another_session_is_found() {
    assert_eq!(counts(&[asks(0, 20, 21, Answer::Mistaken)]), MISTAKEN);
}

#[test]
fn no_answer_breaks_no_promise() {
    let revoked = at(0, 20, 30, REVOKED);
    for answer in [Answer::Failed, Answer::Left] {
        assert_eq!(counts(&[asks(0, 15, 16, answer)]), CLEAN);
        assert_eq!(counts(&[revoked.clone(), asks(0, 40, 41, answer)]), CLEAN);
    }
}

#[test]
fn a_delay_is_counted_until_the_refusals_begin() {
    let delays = |events: &[Event]| {
        let mut history = vec![at(0, 0, 10, ISSUED)];
        history.extend_from_slice(events);
        let delays = delays(&history, ms(1000), |_| true);
        let of_revocation = |delay: &Delay| delay.node == 1 && delay.of.start == ms(20);
        assert!(delays.iter().all(of_revocation), "{delays:?}");
        delays.iter().map(|delay| delay.at_most).collect::<Vec<_>>()
    };
    let revoked = at(0, 20, 30, REVOKED);
    let warm = let_in(1, 15);
    let followed = [warm.clone(), revoked.clone(), refused(1, 33)];
    assert_eq!(delays(&followed), [ms(3)]);
    let late = [let_in(1, 33), refused(1, 36)];
    let late = [[warm.clone(), revoked.clone()], late].concat();
    assert_eq!(delays(&late), [ms(6)]);
    // What is refused in between does not end it.
    let twice = [refused(1, 31), let_in(1, 50), refused(1, 60)];
    let twice = [&[warm.clone(), revoked.clone()], &twice[..]].concat();
    assert_eq!(delays(&twice), [ms(30)]);
    // The node itself, one that had nothing to forget, one that was never asked again.
    let itself = [let_in(0, 15), revoked.clone(), refused(0, 33)];
    assert_eq!(delays(&itself), []);
    assert_eq!(delays(&[revoked.clone(), refused(1, 33)]), []);
    assert_eq!(delays(&[warm.clone(), revoked.clone()]), []);
    // A second end of an ended session is none.
    let again = at(0, 40, 50, revoke_all(Some(())));
    let again = [warm.clone(), revoked.clone(), refused(1, 33), again];
    assert_eq!(delays(&again), [ms(3)]);
    // An operation on the customer that was over before this session was created did not end it.
    let before = at(1, 5, 8, revoke_all(Some(())));
    let issued = What::Issue {
        customer: 7,
        version: 2,
        session: Some(1),
        is_new: true,
    };
    let after = [before, at(0, 10, 12, issued), warm, revoked, refused(1, 33)];
    assert_eq!(delays(&after), [ms(3)]);
}
