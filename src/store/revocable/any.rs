//! Several questions at once, of which one answer may decide.

use std::{future::poll_fn, pin::Pin, task::Poll};

use crate::store::error::StoreError;

/// A question with yes or no for an answer.
pub(super) type Question<'a> = Pin<Box<dyn Future<Output = Result<bool, StoreError>> + Send + 'a>>;

/// Asks all questions at once. Returns `true` as soon as one answer is, and `false` if all of them are.
///
/// # Errors
///
/// One of the questions' own, if no other answer is `true`.
pub(super) async fn any<const N: usize>(questions: [Question<'_>; N]) -> Result<bool, StoreError> {
    let mut open = questions.map(Some);
    let mut failure = None;
    poll_fn(move |context| {
        for place in &mut open {
            let Some(question) = place else { continue };
            let Poll::Ready(answer) = question.as_mut().poll(context) else {
                continue;
            };
            *place = None;
            match answer {
                Ok(true) => return Poll::Ready(Ok(true)),
                Ok(false) => {}
                Err(error) => failure = Some(error),
            }
        }
        match open.iter().any(Option::is_some) {
            true => Poll::Pending,
            false => Poll::Ready(failure.take().map_or(Ok(false), Err)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn yes() -> Question<'static> {
        Box::pin(ready(Ok(true)))
    }

    fn no() -> Question<'static> {
        Box::pin(ready(Ok(false)))
    }

    fn failed() -> Question<'static> {
        Box::pin(ready(Err(StoreError::unavailable("told to fail"))))
    }

    #[tokio::test]
    async fn one_yes_decides_and_a_failure_is_never_a_no() {
        assert!(any([no(), Box::pin(pending()), yes()]).await.expect("yes"));
        assert!(any([failed(), yes()]).await.expect("yes"));
        assert!(!any([no(), no()]).await.expect("no"));
        any([no(), failed(), no()]).await.expect_err("unknown");
    }
}
