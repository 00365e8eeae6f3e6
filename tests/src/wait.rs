//! Waiting for a condition, with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not come true within {waited:?}")]
pub struct TooLate {
    what: String,
    waited: Duration,
}

/// Waits until `look` gives a value, and looks at least once.
///
/// # Errors
/// [`TooLate`] when it gives none until `deadline`.
pub async fn until<T, F>(
    what: &str,
    deadline: Instant,
    mut look: impl FnMut() -> F,
) -> Result<T, TooLate>
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Ok(Some(value)) =
            tokio::time::timeout_at(deadline.max(started + LOOK_EVERY), look()).await
        {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(TooLate {
                what: what.to_owned(),
                waited: started.elapsed(),
            });
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_value_or_names_what_was_waited_for() {
        let mut looks = 0;
        let value = until(
            "the third look",
            Instant::now() + Duration::from_secs(30),
            || {
                looks += 1;
                let seen = (looks == 3).then_some(looks);
                async move { seen }
            },
        );
        assert_eq!(value.await.unwrap(), 3);
        let never = until("a miracle", Instant::now(), || {
            std::future::ready(None::<()>)
        })
        .await;
        assert!(
            never
                .unwrap_err()
                .to_string()
                .starts_with("a miracle did not come true")
        );
    }
}
