//! RFC 8555 and friends.
