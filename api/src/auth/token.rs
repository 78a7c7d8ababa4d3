//! Access tokens: EdDSA, five minutes, every claim required and typed.

use aws_lc_rs::digest;
use chrono::Utc;
use flowai_actors::ids::{SignInId, UserId};
use flowai_store::accounts::TokenHash;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Keys;
use crate::error::ApiError;

/// A stolen token is worth nothing after this.
pub(super) const ACCESS_TTL_S: i64 = 300;
const ISSUER: &str = "flowai";
const AUDIENCE: &str = "flowai-api";
/// Ours are about 400 characters long; what is much longer is not looked at.
const TOKEN_BYTES_MAX: usize = 2_048;
/// Clocks of instances behind one address may differ by this.
const CLOCK_SKEW_S: u64 = 5;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    /// The sign-in: its end is the end of the token.
    sid: Uuid,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Whom a valid token names. That the sign-in is still open is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) user: UserId,
    pub(super) sign_in: SignInId,
}

/// Signs a token for five minutes.
pub(super) fn issue(keys: &Keys, named: Named) -> Result<String, jsonwebtoken::errors::Error> {
    let now = Utc::now().timestamp();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: named.user.as_uuid(),
        sid: named.sign_in.as_uuid(),
        jti: Uuid::now_v7(),
        iat: now,
        nbf: now,
        exp: now + ACCESS_TTL_S,
    };
    let (id, key) = keys.signing();
    let header = Header {
        kid: Some(id.to_owned()),
        ..Header::new(Algorithm::EdDSA)
    };
    jsonwebtoken::encode(&header, &claims, key)
}

/// Checks a token's signature and times. `jku`, `jwk` and `x5u` of its header are never looked at.
///
/// # Errors
/// `TokenExpired`, or `TokenInvalid` for everything else.
pub(super) fn verify(keys: &Keys, token: &str) -> Result<Named, ApiError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(ApiError::TokenInvalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| ApiError::TokenInvalid)?;
    let key = header
        .kid
        .as_deref()
        .and_then(|id| keys.verifying(id))
        .ok_or(ApiError::TokenInvalid)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.leeway = CLOCK_SKEW_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
        .map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => ApiError::TokenExpired,
            _ => ApiError::TokenInvalid,
        })?
        .claims;
    // A longer life than we give was not given by us.
    if claims.exp - claims.iat > ACCESS_TTL_S {
        return Err(ApiError::TokenInvalid);
    }
    Ok(Named {
        user: UserId::from_uuid(claims.sub),
        sign_in: SignInId::from_uuid(claims.sid),
    })
}

/// What is stored of a bearer secret. A plain hash is enough for 256 random bits.
pub(crate) fn hash_of(secret: &str) -> TokenHash {
    let digest = digest::digest(&digest::SHA256, secret.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
    use jsonwebtoken::EncodingKey;
    use serde_json::{Value, json};

    fn keys() -> Keys {
        Keys::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
    }

    fn named() -> Named {
        Named {
            user: UserId::generate(),
            sign_in: SignInId::generate(),
        }
    }

    /// A token of our own key with changed claims.
    fn forged(keys: &Keys, change: impl FnOnce(&mut Value)) -> Result<Named, ApiError> {
        let named = named();
        let now = Utc::now().timestamp();
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": named.user, "sid": named.sign_in,
            "jti": Uuid::now_v7(), "iat": now, "nbf": now, "exp": now + ACCESS_TTL_S,
        });
        change(&mut claims);
        let (id, key) = keys.signing();
        let header = Header {
            kid: Some(id.to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        verify(keys, &jsonwebtoken::encode(&header, &claims, key).unwrap())
    }

    #[test]
    fn a_token_names_whom_it_was_made_for() {
        let (keys, named) = (keys(), named());
        let token = issue(&keys, named).unwrap();
        assert_eq!(verify(&keys, &token).unwrap(), named);
        assert!(token.len() < TOKEN_BYTES_MAX / 2);
        assert!(forged(&keys, |_| {}).is_ok());
    }

    #[test]
    fn claims_of_a_wrong_kind_are_refused() {
        let keys = keys();
        let long_ago = Utc::now().timestamp() - 1_000;
        assert!(matches!(
            forged(&keys, |c| (c["iat"], c["exp"]) =
                (long_ago.into(), (long_ago + 300).into())),
            Err(ApiError::TokenExpired)
        ));
        for (name, value) in [
            ("exp", json!("9999999999")),
            ("exp", json!(9_999_999_999_i64)),
            ("exp", json!(null)),
            ("nbf", json!("0")),
            ("nbf", json!(9_999_999_999_i64)),
            ("iss", json!("someone")),
            ("iss", json!(["flowai"])),
            ("aud", json!("another")),
            ("aud", json!(["flowai-api", "another"])),
            ("sub", json!("admin")),
            ("sub", json!(1)),
            ("sid", json!(null)),
            ("jti", json!(7)),
            ("role", json!("admin")),
        ] {
            let verdict = forged(&keys, |claims| claims[name] = value.clone());
            assert!(
                matches!(verdict, Err(ApiError::TokenInvalid)),
                "{name}={value}: {verdict:?}"
            );
        }
        for name in ["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "sid"] {
            let verdict = forged(&keys, |claims| {
                claims.as_object_mut().unwrap().remove(name);
            });
            assert!(matches!(verdict, Err(ApiError::TokenInvalid)), "{name}");
        }
    }

    #[test]
    fn headers_of_another_make_are_refused() {
        let keys = keys();
        let token = issue(&keys, named()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let with_header = |header: Value| {
            let header = BASE64URL.encode(header.to_string());
            format!("{header}.{}.{}", parts[1], parts[2])
        };
        for header in [
            json!({"alg": "none", "kid": "access-1"}),
            json!({"alg": "None"}),
            json!({"alg": "HS256", "kid": "access-1"}),
            json!({"alg": "EdDSA"}),
            json!({"alg": "EdDSA", "kid": "access-2"}),
            json!({"alg": "EdDSA", "kid": "../../access-1"}),
            json!({"alg": "EdDSA", "kid": "' or 1=1 --"}),
            json!({"alg": "EdDSA", "kid": ["access-1"]}),
        ] {
            let verdict = verify(&keys, &with_header(header.clone()));
            assert!(matches!(verdict, Err(ApiError::TokenInvalid)), "{header}");
        }
        // Signed by the right name with the wrong key, and symmetrically with the public key's name.
        let (id, _) = keys.signing();
        let stranger = tempfile::tempdir().unwrap();
        let stranger = Keys::load_or_create(stranger.path()).unwrap();
        assert!(verify(&keys, &issue(&stranger, named()).unwrap()).is_err());
        let header = Header {
            kid: Some(id.to_owned()),
            ..Header::new(Algorithm::HS256)
        };
        let symmetric = EncodingKey::from_secret(b"access-1");
        let token = jsonwebtoken::encode(&header, &json!({"sub": "x"}), &symmetric).unwrap();
        assert!(verify(&keys, &token).is_err());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let keys = keys();
        let token = issue(&keys, named()).unwrap();
        let huge = "a".repeat(1 << 20);
        for text in ["", ".", "..", "a.b.c", &token[..token.len() - 2], &huge] {
            assert!(verify(&keys, text).is_err());
        }
        assert!(verify(&keys, &format!("{token}.x")).is_err());
    }
}
