//! Secrets: values that cannot be printed, logged or compared in variable time.
//!
//! API tokens are kept as their SHA-256 only; cluster keys are kept because they seal and open.

use std::fmt;

use aws_lc_rs::{constant_time, digest};

/// The most keys or tokens accepted at once.
pub const MAX_SECRETS: usize = 16;

/// A cluster key: 32 bytes that prove membership. The first of several sends, all are accepted.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// Parses 64 hex digits.
    ///
    /// # Errors
    /// Says what is wrong without repeating the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key)
            .map_err(|_| "a key is not 64 hex digits: make one with `kepler key generate`".to_owned())?;
        if key == [0; 32] {
            return Err("a key is all zeros: make one with `kepler key generate`".to_owned());
        }
        Ok(Self(key))
    }

    /// The bytes, for the code that seals, opens and proves.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(hidden)")
    }
}

/// The API tokens a gateway accepts, hashed; compared in constant time.
#[derive(Clone, Default)]
pub struct ApiTokens(Vec<[u8; 32]>);

impl ApiTokens {
    /// Parses tokens of 16 to 256 visible ASCII characters.
    ///
    /// # Errors
    /// Says what is wrong without repeating a token.
    pub fn parse<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut digests = Vec::new();
        for token in tokens {
            if !(16..=256).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("a token is not 16 to 256 visible ASCII characters".to_owned());
            }
            digests.push(sha256(token.as_bytes()));
        }
        if digests.len() > MAX_SECRETS {
            return Err(format!("there are more than {MAX_SECRETS} tokens"));
        }
        Ok(Self(digests))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `presented` is one of the tokens; takes the same time whichever it is.
    pub fn accept(&self, presented: &[u8]) -> bool {
        let presented = sha256(presented);
        self.0.iter().fold(false, |found, digest| {
            found | constant_time::verify_slices_are_equal(digest, &presented).is_ok()
        })
    }
}

impl fmt::Debug for ApiTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiTokens({} hidden)", self.0.len())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_cannot_be_printed() {
        let key = ClusterKey::parse(&"ab".repeat(32)).unwrap();
        let tokens = ApiTokens::parse(["0123456789abcdef"]).unwrap();
        assert_eq!(format!("{key:?} {tokens:?}"), "ClusterKey(hidden) ApiTokens(1 hidden)");
    }

    #[test]
    fn each_of_several_tokens_is_accepted_and_nothing_else() {
        let tokens = ApiTokens::parse(["0123456789abcdef", "fedcba9876543210"]).unwrap();
        assert!(tokens.accept(b"0123456789abcdef") && tokens.accept(b"fedcba9876543210"));
        for wrong in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef,fedcba9876543210"] {
            assert!(!tokens.accept(wrong.as_bytes()), "{wrong}");
        }
        assert!(!ApiTokens::default().accept(b""));
    }
}
