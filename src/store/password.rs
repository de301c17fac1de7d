//! Passwords that change while a service runs.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use crate::telemetry::with_causes;

/// Age up to which an answer serves new connections.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Time limit of an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which it is not asked again because of a refusal, if that has brought no other password.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

type BoxError = Box<dyn StdError + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// Asks the application for the password of new connections.
#[derive(Clone)]
pub(super) struct PasswordProvider {
    /// The method that took the closure, for errors.
    setting: &'static str,
    ask: Arc<dyn Fn() -> Answering + Send + Sync>,
    /// Guards plain values. Never held across an await.
    state: Arc<Mutex<State>>,
    /// Held while a question is under way.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    answer: Option<Password>,
    /// The last failure, and the number of all.
    failure: Option<PasswordError>,
    failures: u64,
    /// The last time that a question because of a refusal brought no other password.
    in_vain_at: Option<Instant>,
}

/// A password, and when it was asked for.
#[derive(Clone)]
pub(super) struct Password {
    text: Zeroizing<String>,
    pub(super) asked_at: Instant,
}

/// The application's closure has no password.
#[derive(Clone, Debug)]
pub(super) struct PasswordError {
    /// The method that took the closure.
    setting: &'static str,
    cause: String,
}

impl PasswordProvider {
    /// Asks `provider`, which the method `setting` of a builder has taken.
    pub(super) fn new<F, A, E>(setting: &'static str, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let ask = move || -> Answering {
            let answer = provider();
            Box::pin(async move { answer.await.map_err(Into::into) })
        };
        Self {
            setting,
            ask: Arc::new(ask),
            state: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// Returns the password for a new connection. Asks if the last answer is too old. If there is no
    /// new one, the last is returned: whether it is still right is for the server to say.
    pub(super) async fn current(&self) -> Result<Password, PasswordError> {
        self.current_within(MAX_AGE).await
    }

    /// Returns the password for a new connection, as [`current`](Self::current) does. Asks if the last answer
    /// is of this age or older.
    pub(super) async fn current_within(
        &self,
        max_age: Duration,
    ) -> Result<Password, PasswordError> {
        let is_fresh = |password: &Password| password.asked_at.elapsed() < max_age;
        let (last, failures) = {
            let state = self.lock();
            (state.answer.clone(), state.failures)
        };
        if let Some(password) = last.clone().filter(is_fresh) {
            return Ok(password);
        }
        let asking = Arc::clone(&self.asking).lock_owned().await;
        if let Some(password) = self.lock().answer.clone().filter(is_fresh) {
            return Ok(password);
        }
        match self.fetch(asking, failures).await {
            Ok(password) => Ok(password),
            Err(error) => last.ok_or(error),
        }
    }

    /// Returns another password than the one that the server has refused, or `None` if there is no other.
    pub(super) async fn after_refusal(
        &self,
        refused: Option<&Password>,
    ) -> Result<Option<Password>, PasswordError> {
        let is_other =
            |answer: &Password| refused.is_none_or(|refused| answer.text != refused.text);
        let failures = self.lock().failures;
        let asking = Arc::clone(&self.asking).lock_owned().await;
        {
            let state = self.lock();
            if let Some(other) = state.answer.clone().filter(is_other) {
                return Ok(Some(other));
            }
            let is_early = |at: Instant| at.elapsed() < REFUSAL_INTERVAL;
            if state.failures == failures && state.in_vain_at.is_some_and(is_early) {
                return Ok(None);
            }
        }
        let answer = self.fetch(asking, failures).await;
        let other = answer.map(|answer| Some(answer).filter(is_other));
        if !matches!(other, Ok(Some(_))) {
            self.lock().in_vain_at = Some(Instant::now());
        }
        other
    }

    /// Asks, unless a question has failed since there were so many failures. The question goes on if
    /// the caller is dropped.
    async fn fetch(
        &self,
        asking: OwnedMutexGuard<()>,
        failures: u64,
    ) -> Result<Password, PasswordError> {
        {
            let state = self.lock();
            if let Some(failure) = state.failure.clone().filter(|_| state.failures != failures) {
                return Err(failure);
            }
        }
        let provider = self.clone();
        let question = tokio::spawn(async move {
            let answer = provider.fetch_within_limit().await;
            drop(asking);
            answer
        });
        let ended = || self.error("its runtime has ended");
        question.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn fetch_within_limit(&self) -> Result<Password, PasswordError> {
        let asked_at = Instant::now();
        let ask = Arc::clone(&self.ask);
        // In a task of its own: it may panic, even before it returns a future.
        let mut question = tokio::spawn(async move { ask().await });
        let answer = match timeout(ANSWER_TIMEOUT, &mut question).await {
            Ok(Ok(Ok(text))) => Ok(Zeroizing::new(text)),
            Ok(Ok(Err(error))) => Err(with_causes(&*error)),
            Ok(Err(_)) => Err("it has panicked".to_owned()),
            Err(_) => {
                question.abort();
                Err(format!("it has not answered within {ANSWER_TIMEOUT:?}"))
            }
        };
        let mut state = self.lock();
        match answer {
            Ok(text) => {
                let password = Password { text, asked_at };
                state.answer = Some(password.clone());
                Ok(password)
            }
            Err(text) => {
                let known = state.answer.as_ref().map(|answer| &*answer.text);
                let known = known.filter(|password| !password.is_empty());
                let text = known.map_or(text.clone(), |known| text.replace(known, "[password]"));
                let error = self.error(text);
                state.failure = Some(error.clone());
                state.failures += 1;
                Err(error)
            }
        }
    }

    /// Returns the last answer.
    pub(super) fn last(&self) -> Option<Password> {
        self.lock().answer.clone()
    }

    fn error(&self, cause: impl Into<String>) -> PasswordError {
        PasswordError {
            setting: self.setting,
            cause: cause.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Password {
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, cause } = self;
        write!(
            f,
            "the closure given to `{setting}` returns no password ({cause}); once its source is \
             mended, it is asked again"
        )
    }
}

impl StdError for PasswordError {}

impl fmt::Debug for PasswordProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordProvider").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const SETTING: &str = "Builder::password_provider";
    const SECRET: &str = "tr0ub4dor";

    /// Returns a provider whose answers take a second, and how often it was asked. After the first so
    /// many answers it fails, with a text that shows the password.
    fn provider(answers: usize) -> (PasswordProvider, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let provider = PasswordProvider::new(SETTING, move || {
            let number = count.fetch_add(1, Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                match number < answers {
                    true => Ok(format!("{SECRET}-{number}")),
                    false => Err(format!("the vault is sealed, {SECRET}-0")),
                }
            }
        });
        (provider, asked)
    }

    fn text(answer: Result<Password, PasswordError>) -> String {
        answer.expect("a password").text.to_string()
    }

    fn error(answer: Result<impl Sized, PasswordError>) -> String {
        let Err(error) = answer else {
            panic!("no error");
        };
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(SETTING), "{shown}");
        shown
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_for_a_minute_and_one_question_serves_all() {
        let (provider, asked) = provider(2);
        let all = (0..100).map(|_| {
            let provider = provider.clone();
            tokio::spawn(async move { text(provider.current().await) })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.expect("no panic"), format!("{SECRET}-0"));
        }
        assert_eq!(asked.load(Relaxed), 1);
        let short = Duration::from_secs(2);
        assert_eq!(
            text(provider.current_within(short).await),
            format!("{SECRET}-0")
        );
        tokio::time::advance(short).await;
        assert_eq!(text(provider.current().await), format!("{SECRET}-0"));
        assert_eq!(asked.load(Relaxed), 1);
        let answer = provider.current_within(short).await;
        assert_eq!(text(answer), format!("{SECRET}-1"));
        // From now on it fails, and the last answer may still be right.
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(text(provider.current().await), format!("{SECRET}-1"));
        assert_eq!(asked.load(Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_goes_on_without_its_caller() {
        let (provider, asked) = provider(1);
        let short = Duration::from_millis(100);
        assert!(timeout(short, provider.current()).await.is_err());
        assert_eq!(text(provider.current().await), format!("{SECRET}-0"));
        assert_eq!(asked.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_shared_and_a_hanging_question_has_a_time_limit() {
        let hanging =
            PasswordProvider::new(SETTING, std::future::pending::<Result<String, BoxError>>);
        let started = Instant::now();
        let all = (0..100).map(|_| {
            let hanging = hanging.clone();
            tokio::spawn(async move { error(hanging.current().await) })
        });
        for one in all.collect::<Vec<_>>() {
            assert!(one.await.expect("no panic").contains("within 3s"));
        }
        assert!(
            started.elapsed() < 2 * ANSWER_TIMEOUT,
            "one after the other"
        );
        let panics = PasswordProvider::new(
            SETTING,
            || -> std::future::Ready<Result<String, BoxError>> { panic!("on purpose") },
        );
        assert!(error(panics.current().await).contains("panicked"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_password_is_asked_for_again_at_once_but_not_without_end() {
        let (provider, asked) = provider(2);
        let first = provider.current().await.expect("a password");
        let second = provider.after_refusal(Some(&first)).await.expect("asked");
        let second = second.expect("another");
        assert_eq!(*second.text, format!("{SECRET}-1"));
        // Others that were refused with the first one take the second.
        let again = provider.after_refusal(Some(&first)).await.expect("known");
        assert_eq!(again.expect("another").text, second.text);
        assert_eq!(asked.load(Relaxed), 2);
        let refused = async || provider.after_refusal(Some(&second)).await.map(|_| ());
        let shown = error(refused().await);
        assert!(shown.contains("the vault is sealed"), "{shown}");
        // Now it waits for a second.
        refused().await.expect("nothing new");
        assert_eq!(asked.load(Relaxed), 3);
        tokio::time::advance(REFUSAL_INTERVAL).await;
        error(refused().await);
        assert_eq!(asked.load(Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_password_is_not_tried_twice() {
        let provider =
            PasswordProvider::new(SETTING, || async { Ok::<_, BoxError>(SECRET.to_owned()) });
        let first = provider.current().await.expect("a password");
        let other = provider.after_refusal(Some(&first)).await;
        assert!(other.expect("asked").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_password_is_shown() {
        let (provider, _) = provider(1);
        let first = provider.current().await.expect("a password");
        let shown = error(provider.after_refusal(Some(&first)).await.map(|_| ()));
        assert!(shown.contains("[password]"), "{shown}");
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(!format!("{provider:?}").contains(SECRET));
    }
}
