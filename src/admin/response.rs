//! An answer: status, type of content, body.

/// Type of plain text.
const TEXT: &str = "text/plain; charset=UTF-8";

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// `content-type`
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl Response {
    /// 200 with text.
    #[must_use]
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            content_type: TEXT,
            body: body.into(),
        }
    }

    /// Another status with text.
    #[must_use]
    pub fn error(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::text(body)
        }
    }

    /// 200 with JSON.
    #[must_use]
    pub fn json(body: impl Into<String>) -> Self {
        Self {
            content_type: "application/json",
            ..Self::text(body)
        }
    }

    /// 200 with HTML.
    #[must_use]
    pub fn html(body: impl Into<String>) -> Self {
        Self {
            content_type: "text/html; charset=UTF-8",
            ..Self::text(body)
        }
    }
}
