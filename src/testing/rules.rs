//! The rules of a store's contract, each as a check.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta};
use tokio::task::JoinSet;

use super::kit::{Checked, Kit, conflict, ensure, joined, new_id, rich_customer};
use crate::{
    customer::{CustomerData, CustomerId},
    session::{SessionId, SessionSummary},
    store::SessionRegistry,
    token::SessionToken,
};

/// How many calls race for one session.
const CONTENDERS: usize = 64;

impl<S: SessionRegistry> Kit<S> {
    pub(super) async fn found_as_inserted(&self) -> Checked {
        let mut session = self.session(&new_id());
        session.modified_at = Some(session.created_at + TimeDelta::microseconds(7));
        session.customer = rich_customer(&session.customer_id);
        self.store.insert(&session).await?;
        self.is_found(&session).await?;
        // And a customer of whom next to nothing is known.
        let plain = self.session(&new_id());
        self.store.insert(&plain).await?;
        self.is_found(&plain).await?;
        self.forget(&[&session, &plain]).await
    }

    pub(super) async fn unknown_opens_nothing(&self) -> Checked {
        let unknown = self.session(&new_id());
        self.is_gone(&unknown, "nobody inserted it").await
    }

    pub(super) async fn tokens_are_exact(&self) -> Checked {
        let session = self.session(&new_id());
        self.store.insert(&session).await?;
        let token = session.token.expose();
        let (head, last) = token.split_at(token.len() - 1);
        let other_last = if last == "0" { "1" } else { "0" };
        let swapped = token.chars().map(|it| {
            if it.is_ascii_lowercase() {
                it.to_ascii_uppercase()
            } else {
                it.to_ascii_lowercase()
            }
        });
        let variants = [
            head.to_owned(),
            format!("{token}0"),
            format!("{head}{other_last}"),
            swapped.collect(),
            format!("{head}%"),
            format!("{head}_"),
        ];
        for variant in variants {
            let mut other = session.clone();
            other.token = SessionToken::new(variant);
            self.is_gone(&other, "its token differs by a character")
                .await?;
        }
        self.forget(&[&session]).await
    }

    pub(super) async fn times_are_exact(&self) -> Checked {
        let mut session = self.session(&new_id());
        session.created_at += TimeDelta::microseconds(1);
        session.expires_at += TimeDelta::microseconds(999_999);
        session.modified_at = Some(session.created_at + TimeDelta::microseconds(123_456));
        self.store.insert(&session).await?;
        let found = self.find(&session).await?;
        for (name, kept, given) in [
            (
                "created_at",
                Some(found.created_at),
                Some(session.created_at),
            ),
            (
                "expires_at",
                Some(found.expires_at),
                Some(session.expires_at),
            ),
            ("modified_at", found.modified_at, session.modified_at),
        ] {
            ensure(
                kept == given,
                format!("{name} was {given:?} and is {kept:?}"),
            )?;
        }
        self.forget(&[&session]).await
    }

    pub(super) async fn expired_keeps_its_end(&self) -> Checked {
        let mut session = self.session(&new_id());
        session.expires_at = session.created_at - TimeDelta::seconds(1);
        self.store.insert(&session).await?;
        // Finding nothing is right, too: it is dead.
        let found = self.store.find(&session.token).await?;
        let alive = found.is_some_and(|found| found.expires_at != session.expires_at);
        ensure(!alive, "an expired session came back with another end")?;
        self.forget(&[&session]).await
    }

    pub(super) async fn customers_are_kept_apart(&self) -> Checked {
        let (one, two) = (self.session(&new_id()), self.session(&new_id()));
        self.store.insert(&one).await?;
        self.store.insert(&two).await?;
        self.is_found(&one).await?;
        self.is_found(&two).await?;
        self.forget(&[&one, &two]).await
    }

    pub(super) async fn insertions_are_kept(&self) -> Checked {
        let customer = new_id();
        let sessions: Vec<_> = (0..CONTENDERS).map(|_| self.session(&customer)).collect();
        let mut insertions = JoinSet::new();
        for session in &sessions {
            let (store, session) = (Arc::clone(&self.store), session.clone());
            insertions.spawn(async move { store.insert(&session).await });
        }
        while let Some(inserted) = insertions.join_next().await {
            joined(inserted)?;
        }
        for session in &sessions {
            self.is_found(session).await?;
        }
        let revoked = self
            .store
            .revoke_customer(&customer.as_str().into())
            .await?;
        ensure(
            revoked == CONTENDERS as u64,
            format!("{revoked} of {CONTENDERS} sessions were there to be revoked"),
        )
    }

    pub(super) async fn taken_is_a_conflict(&self) -> Checked {
        let session = self.session(&new_id());
        self.store.insert(&session).await?;
        let mut same_id = self.session(&new_id());
        same_id.id = session.id.clone();
        conflict(self.store.insert(&same_id).await, "an id that is taken")?;
        let mut same_token = self.session(&new_id());
        same_token.token = session.token.clone();
        conflict(
            self.store.insert(&same_token).await,
            "a token that is taken",
        )?;
        self.is_found(&session).await?;
        self.is_gone(&same_id, "its insertion failed").await?;
        self.forget(&[&session]).await
    }

    pub(super) async fn text_is_kept(&self) -> Checked {
        for text in [
            "",
            " ",
            "naïve",
            "顧客",
            "عميل",
            "👩‍👩‍👧",
            "'; --",
            "a\\b\"c",
            "%_",
            "line\nline",
            "a\0b",
        ] {
            let mut session = self.session(&new_id());
            let mut data = CustomerData::clone(&session.customer);
            data.name = Some(text.to_owned());
            data.metadata = BTreeMap::from([("text".to_owned(), text.into())]);
            session.customer = data.into();
            match self.store.insert(&session).await {
                Ok(()) => {
                    self.is_found(&session).await?;
                    self.forget(&[&session]).await?;
                }
                // Databases that cannot keep it say so, and then nothing was inserted.
                Err(_) if text.contains('\0') => {
                    self.is_gone(&session, "its text was refused").await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn revoked_is_gone(&self) -> Checked {
        let customer = new_id();
        let (one, two) = (self.session(&customer), self.session(&customer));
        self.store.insert(&one).await?;
        self.store.insert(&two).await?;
        ensure(
            self.store.revoke(&one.id).await?,
            "revoking a session said `false`",
        )?;
        self.is_gone(&one, "it was revoked").await?;
        ensure(
            !self.store.revoke(&one.id).await?,
            "revoking it again said `true`",
        )?;
        let list = self.store.list(&one.customer_id).await?;
        ensure(
            list.iter().all(|it| it.id != one.id),
            "a revoked session is listed",
        )?;
        self.is_found(&two).await?;
        self.forget(&[&two]).await
    }

    pub(super) async fn revoking_unknown(&self) -> Checked {
        let unknown = new_id();
        ensure(
            !self
                .store
                .revoke(&SessionId::from(unknown.as_str()))
                .await?,
            "it said `true`",
        )?;
        let customer = CustomerId::from(unknown);
        let revoked = self.store.revoke_customer(&customer).await?;
        ensure(
            revoked == 0,
            format!("{revoked} sessions of an unknown customer"),
        )?;
        let list = self.store.list(&customer).await?;
        ensure(list.is_empty(), "an unknown customer has sessions")
    }

    pub(super) async fn customer_is_revoked(&self) -> Checked {
        let (customer, other) = (new_id(), self.session(&new_id()));
        self.store.insert(&other).await?;
        let sessions: Vec<_> = (0..3).map(|_| self.session(&customer)).collect();
        for session in &sessions {
            self.store.insert(session).await?;
        }
        let revoked = self.store.revoke_customer(&customer.into()).await?;
        ensure(revoked == 3, format!("3 sessions, {revoked} revoked"))?;
        for session in &sessions {
            self.is_gone(session, "its customer was revoked").await?;
        }
        self.is_found(&other).await?;
        self.forget(&[&other]).await
    }

    pub(super) async fn replaced_is_gone(&self) -> Checked {
        let customer = new_id();
        let (old, new) = (self.session(&customer), self.session(&customer));
        self.store.insert(&old).await?;
        ensure(
            self.store.replace(&old.id, &new).await?,
            "replacing said `false`",
        )?;
        self.is_gone(&old, "it was replaced").await?;
        self.is_found(&new).await?;
        let again = self.session(&customer);
        ensure(
            !self.store.replace(&old.id, &again).await?,
            "it was replaced twice",
        )?;
        self.is_gone(&again, "what it should replace was gone")
            .await?;
        self.forget(&[&new]).await
    }

    pub(super) async fn replacing_keeps_the_customer(&self) -> Checked {
        let customer = new_id();
        let (old, mut new) = (self.session(&customer), self.session(&customer));
        self.store.insert(&old).await?;
        // `new` was made of what was read before this update.
        let updated = rich_customer(&old.customer_id);
        self.store.update_customer(&updated).await?;
        ensure(
            self.store.replace(&old.id, &new).await?,
            "replacing said `false`",
        )?;
        new.customer = updated;
        self.is_found(&new).await?;
        self.forget(&[&new]).await
    }

    pub(super) async fn one_winner(&self) -> Checked {
        let customer = new_id();
        let old = self.session(&customer);
        self.store.insert(&old).await?;
        let mut contenders = JoinSet::new();
        for _ in 0..CONTENDERS {
            let (store, old, new) = (
                Arc::clone(&self.store),
                old.id.clone(),
                self.session(&customer),
            );
            contenders.spawn(async move { store.replace(&old, &new).await });
        }
        let mut winners = 0;
        while let Some(replaced) = contenders.join_next().await {
            winners += usize::from(joined(replaced)?);
        }
        ensure(
            winners == 1,
            format!("of {CONTENDERS} replacements {winners} won"),
        )?;
        let left = self.store.revoke_customer(&customer.into()).await?;
        ensure(left == 1, format!("{left} sessions came of one"))
    }

    pub(super) async fn failed_replacement(&self) -> Checked {
        let (old, taken) = (self.session(&new_id()), self.session(&new_id()));
        self.store.insert(&old).await?;
        self.store.insert(&taken).await?;
        let mut new = self.session(old.customer_id.as_str());
        new.id = taken.id.clone();
        conflict(
            self.store.replace(&old.id, &new).await,
            "an id that is taken",
        )?;
        self.is_found(&old).await?;
        self.is_found(&taken).await?;
        self.is_gone(&new, "its insertion failed").await?;
        // A token that is rotated for itself would go on opening what it was rotated to end.
        let mut same = self.session(old.customer_id.as_str());
        same.token = old.token.clone();
        conflict(
            self.store.replace(&old.id, &same).await,
            "the token of the session that it replaces",
        )?;
        self.is_found(&old).await?;
        self.forget(&[&old, &taken]).await
    }

    pub(super) async fn list_is_right(&self) -> Checked {
        let customer = new_id();
        let (mut young, old, other) = (
            self.session(&customer),
            self.session(&customer),
            self.session(&new_id()),
        );
        young.created_at += TimeDelta::seconds(1);
        for session in [&young, &old, &other] {
            self.store.insert(session).await?;
        }
        let list = self.store.list(&customer.into()).await?;
        let expected = [SessionSummary::from(&old), SessionSummary::from(&young)];
        ensure(
            list == expected,
            format!("{expected:?} was expected, not {list:?}"),
        )?;
        self.forget(&[&young, &old, &other]).await
    }

    pub(super) async fn list_shows_no_token(&self) -> Checked {
        let session = self.session(&new_id());
        self.store.insert(&session).await?;
        let shown = format!("{:?}", self.store.list(&session.customer_id).await?);
        ensure(
            !shown.contains(session.token.expose()),
            "a token is in the list",
        )?;
        self.forget(&[&session]).await
    }

    pub(super) async fn update_reaches_all(&self) -> Checked {
        let customer = new_id();
        let mut sessions = [self.session(&customer), self.session(&customer)];
        let other = self.session(&new_id());
        for session in sessions.iter().chain([&other]) {
            self.store.insert(session).await?;
        }
        let updated = rich_customer(&sessions[0].customer_id);
        let count = self.store.update_customer(&updated).await?;
        ensure(count == 2, format!("2 sessions, {count} updated"))?;
        for session in &mut sessions {
            session.customer = updated.clone();
            self.is_found(session).await?;
        }
        self.is_found(&other).await?;
        let unknown = self
            .store
            .update_customer(&rich_customer(&new_id().into()))
            .await?;
        ensure(
            unknown == 0,
            format!("{unknown} sessions of an unknown customer"),
        )?;
        self.forget(&[&sessions[0], &sessions[1], &other]).await
    }

    pub(super) async fn purging(&self) -> Checked {
        // Long ago, so that no session but these has expired by then.
        let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let customer = new_id();
        let mut expired = Vec::new();
        for n in 0..5 {
            let mut session = self.session(&customer);
            session.expires_at = long_ago + TimeDelta::seconds(n);
            self.store.insert(&session).await?;
            expired.push(session);
        }
        // The fourth ends at that very moment, and counts; the fifth does not.
        let before = long_ago + TimeDelta::seconds(3);
        for (limit, expected) in [(0, 0), (3, 3), (3, 1), (3, 0)] {
            let purged = self.store.purge_expired(before, limit).await?;
            ensure(
                purged == expected,
                format!("{purged} were purged with a limit of {limit}, not {expected}"),
            )?;
        }
        for session in &expired[..4] {
            self.is_gone(session, "it was purged").await?;
        }
        let list = self.store.list(&customer.into()).await?;
        ensure(
            list.len() == 1,
            format!("1 session should be left, not {}", list.len()),
        )?;
        self.forget(&[&expired[4]]).await
    }
}
