//! The rules of finding sessions as they were inserted.

use std::{collections::BTreeMap, sync::Arc};

use chrono::TimeDelta;
use tokio::task::JoinSet;

use super::{
    harness::{CONTENDERS, Harness, RuleResult, conflict, ensure, joined, new_id, rich_customer},
    report::Conformance,
};
use crate::{
    customer::{CustomerData, CustomerId},
    session::SessionId,
    store::SessionRegistry,
    token::SessionToken,
};

impl<S: SessionRegistry> Harness<S> {
    /// Checks what is inserted, and how it is found.
    pub(super) async fn check_insertion(&self, report: &mut Conformance) {
        report.add(
            "a session is found as it was inserted",
            self.found_as_inserted().await,
        );
        report.add(
            "an unknown token opens nothing",
            self.unknown_opens_nothing().await,
        );
        report.add(
            "tokens are told apart by every character",
            self.tokens_are_exact().await,
        );
        report.add(
            "identifiers are told apart by every byte",
            self.identifiers_are_exact().await,
        );
        report.add(
            "times are kept to the microsecond",
            self.times_are_exact().await,
        );
        report.add(
            "an expired session keeps its end",
            self.expired_keeps_its_end().await,
        );
        report.add(
            "each session has its own customer",
            self.customers_are_kept_apart().await,
        );
        report.add(
            "concurrent insertions are all kept",
            self.insertions_are_kept().await,
        );
        report.add(
            "a taken id or token is a conflict",
            self.taken_is_a_conflict().await,
        );
        report.add(
            "text is kept or refused, never changed",
            self.text_is_kept().await,
        );
    }

    async fn found_as_inserted(&self) -> RuleResult {
        let mut session = self.session(&new_id());
        session.modified_at = Some(session.created_at + TimeDelta::microseconds(7));
        session.customer = rich_customer(&session.customer_id);
        let inserted = self.insert(&session).await?;
        ensure(
            inserted.session == session && inserted.ended.is_empty(),
            format!("{session:?} was inserted, the answer is {inserted:?}"),
        )?;
        self.is_found(&session).await?;
        // And a customer without optional fields.
        let plain = self.session(&new_id());
        self.insert(&plain).await?;
        self.is_found(&plain).await?;
        self.forget(&[&session, &plain]).await
    }

    async fn unknown_opens_nothing(&self) -> RuleResult {
        let unknown = self.session(&new_id());
        self.is_gone(&unknown, "it was never inserted").await
    }

    async fn tokens_are_exact(&self) -> RuleResult {
        let session = self.session(&new_id());
        self.insert(&session).await?;
        let token = session.token.expose();
        let (head, last) = token.split_at(token.len() - 1);
        let other_last = if last == "0" { "1" } else { "0" };
        let swapped = token.chars().map(|letter| {
            if letter.is_ascii_lowercase() {
                letter.to_ascii_uppercase()
            } else {
                letter.to_ascii_lowercase()
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

    /// Identifiers that some databases take for one: other case, a trailing blank, an accent that
    /// is composed otherwise.
    async fn identifiers_are_exact(&self) -> RuleResult {
        let stem = new_id();
        let variants = ["ab", "AB", "ab ", "\u{e9}", "e\u{301}"].map(|end| format!("{stem}{end}"));
        let mut sessions = Vec::new();
        for variant in &variants {
            let mut session = self.session(variant);
            session.id = SessionId::from(variant.as_str());
            self.insert(&session).await?;
            sessions.push(session);
        }
        for session in &sessions {
            let list = self.list(&session.customer_id).await?;
            let is_alone = list.len() == 1 && list[0].id == session.id;
            ensure(
                is_alone,
                format!("customer {:?} has {list:?}", session.customer_id),
            )?;
        }
        let other = CustomerId::from(format!("{stem}Ab"));
        let list = self.list(&other).await?;
        ensure(list.is_empty(), format!("customer {other:?} has {list:?}"))?;
        while let Some(session) = sessions.pop() {
            ensure(
                self.revoke(&session.id).await?,
                format!("session {:?} was gone", session.id),
            )?;
            for other in &sessions {
                self.is_found(other).await?;
            }
        }
        Ok(())
    }

    async fn times_are_exact(&self) -> RuleResult {
        let mut session = self.session(&new_id());
        session.created_at += TimeDelta::microseconds(1);
        session.expires_at += TimeDelta::microseconds(999_999);
        session.modified_at = Some(session.created_at + TimeDelta::microseconds(123_456));
        self.insert(&session).await?;
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

    async fn expired_keeps_its_end(&self) -> RuleResult {
        let mut session = self.session(&new_id());
        session.expires_at = session.created_at - TimeDelta::seconds(1);
        self.insert(&session).await?;
        // Finding nothing is right, too: it is dead.
        let found = self.store.find(&session.token).await?;
        let alive = found.is_some_and(|found| found.expires_at != session.expires_at);
        ensure(!alive, "an expired session came back with another end")?;
        self.forget(&[&session]).await
    }

    async fn customers_are_kept_apart(&self) -> RuleResult {
        let (one, two) = (self.session(&new_id()), self.session(&new_id()));
        self.insert(&one).await?;
        self.insert(&two).await?;
        self.is_found(&one).await?;
        self.is_found(&two).await?;
        self.forget(&[&one, &two]).await
    }

    async fn insertions_are_kept(&self) -> RuleResult {
        let customer = new_id();
        let sessions: Vec<_> = (0..CONTENDERS).map(|_| self.session(&customer)).collect();
        let mut insertions = JoinSet::new();
        for session in &sessions {
            let (store, session) = (Arc::clone(&self.store), session.clone());
            insertions.spawn(async move { store.insert(&session, None).await });
        }
        while let Some(inserted) = insertions.join_next().await {
            joined(inserted)?;
        }
        for session in &sessions {
            self.is_found(session).await?;
        }
        let revoked = self.revoke_customer(&customer.into()).await?;
        ensure(
            revoked == CONTENDERS,
            format!("{revoked} of {CONTENDERS} sessions were there to be revoked"),
        )
    }

    async fn taken_is_a_conflict(&self) -> RuleResult {
        let session = self.session(&new_id());
        self.insert(&session).await?;
        let mut same_id = self.session(&new_id());
        same_id.id = session.id.clone();
        conflict(self.insert(&same_id).await, "an id that is taken")?;
        let mut same_token = self.session(&new_id());
        same_token.token = session.token.clone();
        conflict(self.insert(&same_token).await, "a token that is taken")?;
        self.is_found(&session).await?;
        self.is_gone(&same_id, "its insertion failed").await?;
        self.forget(&[&session]).await
    }

    async fn text_is_kept(&self) -> RuleResult {
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
            match self.insert(&session).await {
                Ok(_) => {
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
}
