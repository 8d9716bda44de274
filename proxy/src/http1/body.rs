//! Where a body ends, and taking its framing away.

use super::chunked::Chunked;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection; answers only.
    UntilClose,
}

/// Follows one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes are missing.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunked),
    /// It ends with the connection.
    UntilClose,
    /// It has ended.
    Ended,
}

/// What was found in the bytes that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// So many bytes at their front are the body's.
    pub(crate) data: usize,
    /// So many of them are used up; what is left comes after the body.
    pub(crate) taken: usize,
    /// Whether the body has ended.
    pub(crate) ended: bool,
}

/// The framing of a body is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("framing of a body is malformed")]
pub(crate) struct Malformed;

impl Decoder {
    /// For a client's body.
    pub(crate) fn for_request(framing: Framing) -> Self {
        Self::new(framing, Chunked::strict())
    }

    /// For an upstream's body.
    pub(crate) fn for_response(framing: Framing) -> Self {
        Self::new(framing, Chunked::tolerant())
    }

    fn new(framing: Framing, chunked: Chunked) -> Self {
        match framing {
            Framing::Length(0) => Self::Ended,
            Framing::Length(left) => Self::Length(left),
            Framing::Chunked => Self::Chunked(chunked),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing more belongs to the body.
    pub(crate) fn is_ended(&self) -> bool {
        *self == Self::Ended
    }

    /// Moves the body's bytes to the front of `bytes`.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Malformed> {
        let decoded = match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Decoded { data: taken, taken, ended: *left == 0 }
            }
            Self::Chunked(chunked) => chunked.decode(bytes)?,
            Self::UntilClose => Decoded { data: bytes.len(), taken: bytes.len(), ended: false },
            Self::Ended => Decoded { data: 0, taken: 0, ended: true },
        };
        if decoded.ended {
            *self = Self::Ended;
        }
        Ok(decoded)
    }

    /// Notes that the connection has ended; says whether the body has too.
    pub(crate) fn close(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Ended;
        }
        self.is_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_ends_where_it_says_and_a_close_ends_only_what_it_delimits() {
        let mut body = Decoder::for_request(Framing::Length(5));
        assert_eq!(body.decode(&mut b"hel".to_vec()), Ok(Decoded { data: 3, taken: 3, ended: false }));
        assert!(!body.close());
        assert_eq!(body.decode(&mut b"loGET".to_vec()), Ok(Decoded { data: 2, taken: 2, ended: true }));
        assert!(body.is_ended() && Decoder::for_request(Framing::Length(0)).is_ended());
        let mut body = Decoder::for_response(Framing::UntilClose);
        assert_eq!(body.decode(&mut b"all".to_vec()), Ok(Decoded { data: 3, taken: 3, ended: false }));
        assert!(body.close());
        assert!(!Decoder::for_response(Framing::Chunked).close());
    }
}
