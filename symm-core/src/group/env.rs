//! Variables that switch something on.

use std::ffi::OsString;

use crate::error::Result;
use crate::launch::place::environment;

/// Whether a variable switches something on.
pub(crate) fn flag(name: &'static str, read: impl Fn(&str) -> Option<OsString>) -> Result<bool> {
    match read(name).as_ref().map(|value| value.to_str()) {
        None | Some(Some("" | "0")) => Ok(false),
        Some(Some("1")) => Ok(true),
        Some(_) => Err(environment(name, "is neither 0 nor 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redzones_are_on_or_off() {
        let read = |value: Option<&str>| flag("SYMM_REDZONES", |_| value.map(OsString::from)).ok();
        assert_eq!([None, Some("0"), Some("")].map(read), [Some(false); 3]);
        assert_eq!([Some("1"), Some("yes")].map(read), [Some(true), None]);
    }
}
