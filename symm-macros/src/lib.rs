//! The macros of [symm-core](https://docs.rs/symm-core), which re-exports them: depend on that
//! crate, not on this one.
//!
//! | macro | what it does |
//! |---|---|
//! | [`groups!`] | declares the groups of ranks, as types |
//! | [`#[symmetric]`](macro@symmetric) | runs a function's body in a scope of a group |
//! | [`symm!`] | runs a block in a scope of a group |
//!
//! All three take `crate = path` for crates that have symm-core under another name.

use proc_macro::TokenStream;

mod args;
mod attribute;
mod block;
mod diagnostics;
mod groups;
mod open;
#[cfg(test)]
mod tests;

/// Runs the body of a function in a scope of a group: what it allocates there is symmetric memory
/// of that group.
///
/// ```
/// use symm_core::{Backend, Group, Host, Result, SymmBuf, World, groups, symmetric};
///
/// groups! { pub Tp = "tp"; }
///
/// struct Linear<B: Backend> {
///     tp: Group<Tp, B>,
/// }
///
/// impl<B: Backend> Linear<B> {
///     #[symmetric(group = self.tp)]
///     fn partial_sums(&self, len: usize) -> Result<SymmBuf<f32, Tp, B>> {
///         SymmBuf::zeros(len) // in the memory of `self.tp`
///     } // registered here, when the scope closes
/// }
///
/// World::<Host>::run(2, |world| {
///     let layer = Linear { tp: world.split::<Tp>(0, 0)? };
///     assert_eq!(layer.partial_sums(8)?.len(), 8);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// # Arguments
///
/// - `group = EXPR`, always needed: a [`Group`], or what dereferences to one, such as `&Group`,
///   `Arc<Group>` or a lock's guard. It is evaluated inside the function, where `self` and the
///   arguments are in scope. Its temporaries, a lock's guard above all, end before the body runs.
/// - `when = EXPR`: a `bool`; if false, the memory is plain and its collectives say so.
/// - `on_error = poison | panic`: what a failure of the scope itself does in a function that cannot
///   return it: poison the world, so that the next call on any of its groups gives the error, or
///   panic.
/// - `crate = PATH`: where symm-core is, `::symm_core` if not said.
///
/// # Errors of the scope
///
/// Opening a scope can fail, and so can the registration when it closes. A function that returns
/// `Result<T, E>`, under any alias and with any `E: From<symm_core::Error>`, returns that error.
/// `anyhow::Error`, `Box<dyn Error>` and `io::Error` are such types. An error of the body goes
/// first. Functions with another return type must say `on_error`; so must those that return `impl
/// Trait`, whose type the macro cannot see.
///
/// When the body leaves by an error or a panic, the scope is not closed but dropped, which never
/// waits: what is still to be registered is left to the group's next collective or scope, and it is
/// there that an error of this registration shows.
///
/// # Which functions
///
/// Functions and methods of all kinds: generic, `unsafe`, with `impl Trait`, by-value `self`,
/// returned reborrows of `&mut self`, in traits and their implementations. Not `const fn`, nor
/// `async fn` or one that returns a future: a scope belongs to a thread, and across an `.await`
/// other tasks would allocate in it. Move what allocates into a function that is not async,
/// annotate that one, and call it.
///
/// # Expansion
///
/// ```text
/// fn partial_sums(&self, len: usize) -> Result<SymmBuf<f32, Tp, B>> {
///     let opened = match &(self.tp) { group => open(&*group, site) }; // `site`: file, line and function
///     let run = Annotated::new(opened, move || -> Result<SymmBuf<f32, Tp, B>> { SymmBuf::zeros(len) });
///     run.finish(Unspecified) // calls the closure, closes the scope
/// }
/// ```
///
/// The body becomes a closure, so `Location::caller()` in it is the closure's, not that of a
/// `#[track_caller]` function.
///
/// [`Group`]: https://docs.rs/symm-core/latest/symm_core/struct.Group.html
#[proc_macro_attribute]
pub fn symmetric(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute::expand(args.into(), &item.into()).into()
}

/// Runs a block in a scope of a group and gives a `Result<T, symm_core::Error>`, where `T` is the
/// block's type.
///
/// ```
/// use symm_core::{Host, World, groups, symm};
///
/// groups! { pub Tp = "tp"; }
///
/// World::<Host>::run(2, |world| {
///     let tp = world.split::<Tp>(0, 0)?;
///     let partial = symm!(group = tp, { tp.empty::<f32>(8)? })?;
///     assert_eq!(partial.len(), 8);
///     Ok(())
/// })?;
/// # Ok::<(), symm_core::Error>(())
/// ```
///
/// The arguments are `group`, `when` and `crate`, with the meanings they have in
/// [`#[symmetric]`](macro@symmetric#arguments); the block comes last.
///
/// # Early exits
///
/// The block is no closure: `?`, `return`, `break` and `continue` mean what they mean without the
/// macro, and leave both the block and the scope. `?` inside the block therefore returns from the
/// function around it; the `?` behind the macro is for the scope's own error.
///
/// A scope that is left early, or by a panic, is not closed but dropped, which never waits: what is
/// still to be registered is left to the group's next collective or scope, and it is there that an
/// error of this registration shows.
///
/// `.await` in the block is an error, except in async code nested in it: other tasks would allocate
/// in the scope.
///
/// # Expansion
///
/// ```text
/// {
///     let opened = match &(tp) { group => open(&*group, site) }; // `site`: file, line and function
///     match opened {
///         Ok(scope) => match { tp.empty::<f32>(8)? } {
///             value => finish_block(scope, value), // closes the scope: `Result<T, Error>`
///         },
///         Err(refused) => Err(refused.into_error()),
///     }
/// }
/// ```
#[proc_macro]
pub fn symm(input: TokenStream) -> TokenStream {
    block::expand(input.into()).into()
}

/// Declares groups of ranks: a type each, by which the compiler keeps their buffers apart.
///
/// ```
/// use symm_core::{GroupTag, groups};
///
/// groups! {
///     /// Tensor parallel: partial sums of the linear layers.
///     pub Tp = "tp";
///     /// Context parallel: the KV cache.
///     pub Cp = "cp";
///     /// Expert parallel.
///     pub(crate) Ep = "ep";
///     arena(Tp, Cp);
/// }
///
/// assert_eq!(Tp::NAME, "tp"); // what reports and errors call it
/// assert_eq!(Tp::ARENA, Cp::ARENA);
/// assert_eq!(Ep::ARENA, None);
/// ```
///
/// `arena(Tp, Cp);` gives the named groups one arena: their scopes allocate from the same segments,
/// which are then registered with each group that uses them. Ranks must make the same allocations
/// in the same order over all groups of an arena. A group that is in no `arena(..)` has one of its
/// own.
///
/// Visibility, docs and other attributes go to the type. A crate that has symm-core under another
/// name says `crate = its_name;` first.
///
/// # Expansion
///
/// ```text
/// /// Tensor parallel: partial sums of the linear layers.
/// #[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
/// pub enum Tp {}
///
/// impl GroupTag for Tp {
///     const NAME: &'static str = "tp";
///     const ARENA: Option<&'static str> = Some(concat!(module_path!(), "::arena(Tp, Cp)"));
/// }
/// ```
#[proc_macro]
pub fn groups(input: TokenStream) -> TokenStream {
    groups::expand(input.into()).into()
}
