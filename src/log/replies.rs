//! Answers: what validators tell frontends, over plain NATS. A lost answer harms nobody, because the
//! frontend asks again.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;

use super::client::Log;
use super::error::LogError;
use super::subjects;
use crate::event::Answer;

/// A frontend's subscription to the answers meant for it.
pub struct Answers {
    subscriber: Source,
}

/// Where they come from.
enum Source {
    Nats(Subscriber),
    /// A test's own log.
    #[cfg(test)]
    Given(tokio::sync::mpsc::UnboundedReceiver<Answer>),
}

impl Log {
    /// Answers `frontend`.
    pub async fn answer(&self, frontend: &str, answer: &Answer) -> Result<(), LogError> {
        const WHAT: &str = "answering a frontend";
        let body = serde_json::to_vec(answer).map_err(|error| LogError::malformed(WHAT, error))?;
        self.client
            .publish(subjects::answer(frontend), Bytes::from(body))
            .await
            .map_err(|error| LogError::unavailable(WHAT, error))
    }

    /// Subscribes to the answers for `frontend`. When this returns, the server has the subscription, unless it cannot be
    /// reached.
    pub async fn answers(&self, frontend: &str) -> Result<Answers, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return Ok(Answers { subscriber: Source::Given(stand_in.answers(frontend)) });
        }
        let subscriber = self
            .client
            .subscribe(subjects::answer(frontend))
            .await
            .map_err(|error| LogError::unavailable("subscribing to answers", error))?;
        self.confirm_subscription("answers").await;
        Ok(Answers { subscriber: Source::Nats(subscriber) })
    }
}

/// The answers for all frontends, heard along.
pub struct HeardAnswers {
    subscriber: Subscriber,
}

impl Log {
    /// Subscribes to the answers for all frontends, as an operator may. What is not read in time is lost.
    pub async fn answers_to_all(&self) -> Result<HeardAnswers, LogError> {
        let subscriber = self.client.subscribe(subjects::ANSWERS_ALL).await;
        let subscriber = subscriber.map_err(|error| LogError::unavailable("hearing answers along", error))?;
        self.confirm_subscription("all answers").await;
        Ok(HeardAnswers { subscriber })
    }
}

impl HeardAnswers {
    /// The next answer, and the frontend that it is for; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<(String, Answer)> {
        loop {
            let message = self.subscriber.next().await?;
            let frontend = subjects::frontend_of_answer(&message.subject);
            // What cannot be read, the frontend that it is for warns of.
            let answer = serde_json::from_slice(&message.payload);
            if let (None, Some(frontend), Ok(answer)) = (&message.headers, frontend, answer) {
                return Some((frontend.to_owned(), answer));
            }
        }
    }
}

impl Answers {
    /// The next answer; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<Answer> {
        loop {
            let message = match &mut self.subscriber {
                Source::Nats(subscriber) => subscriber.next().await?,
                #[cfg(test)]
                Source::Given(answers) => return answers.recv().await,
            };
            // An answer of the log that somebody had sent here. Validators' answers have no headers at all.
            if message.headers.is_some() {
                tracing::warn!("an answer that no validator gave; ignored");
                continue;
            }
            match serde_json::from_slice(&message.payload) {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::warn!(%error, "an answer that cannot be read; ignored"),
            }
        }
    }
}
