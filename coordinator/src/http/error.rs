//! Errors as answers.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::ErrorBody;
use crate::artifacts::{ArtifactError, UploadError};
use crate::bus::BusError;
use crate::centre::Unavailable;
use crate::preflight::PreflightError;
use crate::state::{ModelError, RolloutError};
use lamppost_coordinator_core::rollout::PlanError;
use lamppost_coordinator_core::rollout::campaign::Refusal;
use lamppost_store::StoreError;

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    text: String,
    /// The server works as it should.
    expected: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            expected: false,
        }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// What is asked for again later, which is not worth a warning.
    pub(crate) fn busy(busy: &crate::downloads::Busy) -> Self {
        Self {
            expected: true,
            ..Self::of(StatusCode::SERVICE_UNAVAILABLE, busy)
        }
    }

    /// What went wrong.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        Self::of(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    pub(crate) fn of(status: StatusCode, error: &dyn std::error::Error) -> Self {
        Self::new(status, crate::error::chain(error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && !self.expected {
            tracing::warn!(
                status = self.status.as_u16(),
                error = self.text,
                "a request failed"
            );
        }
        let body = serde_json::to_vec(&ErrorBody { error: self.text }).unwrap_or_default();
        (
            self.status,
            [(header::CONTENT_TYPE, "application/json")],
            body,
        )
            .into_response()
    }
}

impl From<Unavailable> for ApiError {
    fn from(error: Unavailable) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, &error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let full = error.is_disk_full();
        Self::of(
            if full {
                StatusCode::INSUFFICIENT_STORAGE
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            },
            &error,
        )
    }
}

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        let status = match &error {
            RolloutError::NoModel { .. } | RolloutError::NoBundle { .. } => StatusCode::NOT_FOUND,
            RolloutError::Plan(error) => plan_status(error),
            RolloutError::Refused(refusal) => match refusal {
                Refusal::Plan(error) => plan_status(error),
                Refusal::None { .. } => StatusCode::NOT_FOUND,
                Refusal::Policy(_) => StatusCode::BAD_REQUEST,
                Refusal::First { .. }
                | Refusal::Nobody { .. }
                | Refusal::UnderWay { .. }
                | Refusal::State { .. }
                | Refusal::Revoked { .. }
                | Refusal::RevokedAlready { .. }
                | Refusal::Homeless { .. }
                | Refusal::Settled { .. } => StatusCode::CONFLICT,
            },
            RolloutError::Contradiction | RolloutError::Budget { .. } => StatusCode::BAD_REQUEST,
            RolloutError::NobodyIn { .. } => StatusCode::CONFLICT,
            RolloutError::Store(error) if error.is_disk_full() => StatusCode::INSUFFICIENT_STORAGE,
            RolloutError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::of(status, &error)
    }
}

fn plan_status(error: &PlanError) -> StatusCode {
    match error {
        PlanError::NoRelease { .. } => StatusCode::NOT_FOUND,
        PlanError::Already { .. } | PlanError::NothingBefore { .. } => StatusCode::CONFLICT,
        PlanError::TooManyTopics { .. } => StatusCode::INSUFFICIENT_STORAGE,
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let status = match &error {
            ModelError::Conflict { .. } => StatusCode::CONFLICT,
            ModelError::Full => StatusCode::INSUFFICIENT_STORAGE,
            ModelError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::of(status, &error)
    }
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        let missing = matches!(error, ArtifactError::Missing { .. });
        Self::of(
            if missing {
                StatusCode::NOT_FOUND
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            },
            &error,
        )
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let status = match &error {
            UploadError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            UploadError::Io(error) => io_status(error),
        };
        Self::of(status, &error)
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::of(io_status(&error), &error)
    }
}

impl From<PreflightError> for ApiError {
    fn from(error: PreflightError) -> Self {
        let status = match &error {
            PreflightError::Refused { .. }
            | PreflightError::Ended { .. }
            | PreflightError::Deadline => StatusCode::UNPROCESSABLE_ENTITY,
            PreflightError::Process(_) | PreflightError::Answer { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::of(status, &error)
    }
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        let status = match &error {
            BusError::Filter { .. } => StatusCode::BAD_REQUEST,
            BusError::NotConnected | BusError::Link(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::of(status, &error)
    }
}

fn io_status(error: &std::io::Error) -> StatusCode {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = matches!(error.kind(), StorageFull | QuotaExceeded);
    if full {
        StatusCode::INSUFFICIENT_STORAGE
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}
