//! What can be wrong with a request before anything of it is believed.

use http::StatusCode;

/// Why a request head, or the framing of its body, is refused and its connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The head is over its limit.
    #[error("request head is larger than 32 kB")]
    HeadTooLarge,
    /// The head has too many fields.
    #[error("request head has more than 100 fields")]
    TooManyFields,
    /// The head was not complete in time.
    #[error("request head did not arrive within 30 s")]
    HeadTooSlow,
    /// A line feed without a carriage return before it.
    #[error("request head has a line that does not end in CR LF")]
    BareLineFeed,
    /// A carriage return, NUL or other control character inside a line.
    #[error("request head has a control character in it")]
    ControlCharacter,
    /// Not `METHOD SP target SP HTTP/1.x`.
    #[error("request line is malformed")]
    RequestLine,
    /// A target that is not a path with an optional query.
    #[error("request target must be a path; absolute targets, authorities and `*` are not served")]
    Target,
    /// A version other than 1.0 and 1.1.
    #[error("only HTTP/1.1 and HTTP/1.0 are served here")]
    Version,
    /// A field line that starts with white space.
    #[error("request head has a folded field")]
    FoldedField,
    /// A field whose name is not a token directly before the colon.
    #[error("request head has a field with a malformed name")]
    FieldName,
    /// No `host`, more than one, or one that is no host.
    #[error("request must have exactly one valid host field")]
    Host,
    /// `content-length` that is repeated, a list, signed, or not a number.
    #[error("request must have at most one content-length, of digits only")]
    ContentLength,
    /// `transfer-encoding` that is not exactly `chunked`, or stands beside `content-length` or HTTP/1.0.
    #[error("transfer-encoding must be `chunked`, once, without content-length, in HTTP/1.1")]
    TransferEncoding,
    /// `upgrade`.
    #[error("protocol upgrades are not served here")]
    Upgrade,
    /// An expectation other than `100-continue`.
    #[error("only the expectation `100-continue` is met here")]
    Expectation,
    /// A body where the method has none.
    #[error("request with this method must not have a body")]
    UnexpectedBody,
    /// A chunk with an extension, a bad size, a bad end, or a trailer.
    #[error("chunked body is malformed; extensions and trailers are not served")]
    Chunk,
}

impl Violation {
    /// The status that tells the client.
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
