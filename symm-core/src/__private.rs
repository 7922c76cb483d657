//! What the macros expand to. Not for use by hand, and without a promise of stability.

use std::any::type_name;
use std::marker::PhantomData;

use crate::group::world::Fate;
use crate::{Backend, Error, Group, GroupTag, Result, Scope};

/// Where a scope was opened, as the macros record it.
pub use crate::site::Recorded as Site;

/// The path of the function that the item `here`, declared inside it by the macros, lies in.
pub fn function_around<F>(_here: F) -> &'static str {
    let mut path = type_name::<F>();
    while let Some((outer, "here" | "{{closure}}")) = path.rsplit_once("::") {
        path = outer;
    }
    path
}

/// A scope that could not be opened, and the world that an `on_error = poison` ends for it.
#[derive(Debug)]
pub struct Refused<B: Backend> {
    error: Error,
    fate: Fate<B>,
}

impl<B: Backend> Refused<B> {
    /// Why.
    pub fn into_error(self) -> Error {
        self.error
    }
}

/// Opens a scope of the group.
pub fn open<G: GroupTag, B: Backend>(
    group: &Group<G, B>,
    site: &'static Site,
) -> Result<Scope<G, B>, Refused<B>> {
    open_when(group, true, site)
}

/// Opens a scope of the group, switched off where `when` is false.
pub fn open_when<G: GroupTag, B: Backend>(
    group: &Group<G, B>,
    when: bool,
    site: &'static Site,
) -> Result<Scope<G, B>, Refused<B>> {
    Scope::open(group.core(), when, crate::Site::recorded(site)).map_err(|error| Refused {
        error,
        fate: Fate::of(&group.core().world),
    })
}

/// The normal end of a `symm!` block.
pub fn finish_block<T, G: GroupTag, B: Backend>(scope: Scope<G, B>, value: T) -> Result<T> {
    scope.close()?;
    Ok(value)
}

/// An annotated function: its scope and its body.
#[derive(Debug)]
pub struct Annotated<R, F, G: GroupTag, B: Backend> {
    opened: Result<Scope<G, B>, Refused<B>>,
    body: F,
    returns: PhantomData<fn() -> R>,
}

impl<R, F: FnOnce() -> R, G: GroupTag, B: Backend> Annotated<R, F, G, B> {
    // The bound on `F` makes the closure an `FnOnce`, which may return what it borrows from `&mut
    // self`.
    #[inline(always)]
    pub fn new(opened: Result<Scope<G, B>, Refused<B>>, body: F) -> Self {
        Self {
            opened,
            body,
            returns: PhantomData,
        }
    }
}

impl<T, E, F: FnOnce() -> Result<T, E>, G: GroupTag, B: Backend> Annotated<Result<T, E>, F, G, B> {
    /// Of any function that returns a `Result`: preferred to [`Plain::finish`], as all inherent
    /// methods are. The body's own error wins.
    #[inline(always)]
    pub fn finish<P>(self, _policy: P) -> Result<T, E>
    where
        E: Report, // here and not on the impl, or a `Result` with another error would be sent to `Plain`
    {
        let scope = self.opened.map_err(|refused| E::report(refused.error))?;
        let value = (self.body)()?;
        scope.close().map_err(E::report)?;
        Ok(value)
    }
}

/// An error type through which an annotated function can report a failed registration.
#[diagnostic::on_unimplemented(
    message = "`#[symmetric]` cannot report a failed registration through `{Self}`",
    label = "this error type has no `From<symm_core::Error>`",
    note = "implement `From<symm_core::Error>` for `{Self}`, or return an error that has it, such as `symm_core::Error`, \
            `Box<dyn std::error::Error>`, `anyhow::Error` or `std::io::Error`"
)]
pub trait Report {
    fn report(error: Error) -> Self;
}

impl<E: From<Error>> Report for E {
    fn report(error: Error) -> Self {
        error.into()
    }
}

/// Of a function that returns anything else.
pub trait Plain<R> {
    fn finish<P: OnError>(self, policy: P) -> R;
}

impl<R, F: FnOnce() -> R, G: GroupTag, B: Backend> Plain<R> for Annotated<R, F, G, B> {
    #[inline(always)]
    fn finish<P: OnError>(self, policy: P) -> R {
        match self.opened {
            Ok(scope) => {
                let fate = scope.fate();
                let value = (self.body)();
                if let Err(error) = scope.close() {
                    policy.failed(&fate, error);
                }
                value
            }
            Err(refused) => {
                policy.failed(&refused.fate, refused.error);
                (self.body)()
            }
        }
    }
}

/// What a function does with a failure that it cannot return.
#[diagnostic::on_unimplemented(
    message = "a `#[symmetric]` function that does not return a `Result` must say what a failed registration does",
    label = "not a `Result`: add `on_error = poison` or `on_error = panic`"
)]
pub trait OnError {
    #[doc(hidden)]
    fn failed<B: Backend>(&self, fate: &Fate<B>, error: Error);
}

/// No `on_error` was given.
#[derive(Clone, Copy, Debug)]
pub struct Unspecified;

/// `on_error = poison`: the world fails, and with it every later call.
#[derive(Clone, Copy, Debug)]
pub struct Poison;

impl OnError for Poison {
    fn failed<B: Backend>(&self, fate: &Fate<B>, error: Error) {
        fate.poison(&error);
    }
}

/// `on_error = panic`: as the user asked.
#[derive(Clone, Copy, Debug)]
pub struct Panic;

impl OnError for Panic {
    #[allow(clippy::panic)]
    fn failed<B: Backend>(&self, _fate: &Fate<B>, error: Error) {
        panic!("{error}");
    }
}
