//! The opening of a scope, with which both expansions begin.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::Expr;

use crate::args::Args;
use crate::diagnostics::ends;

/// An expression that opens a scope of `group`: `Result<Scope<G, B>, Refused<B>>`.
///
/// It does not borrow the group. Temporaries of the group expression end with the statement that
/// this is put into, before the body runs. `at` is the place to report.
pub(crate) fn open(args: &Args, group: &Expr, at: Span) -> TokenStream {
    let own = Span::mixed_site();
    let private = args.private();
    let site = site(&private, at);
    // `&*` lets a `&Group`, `Arc<Group>`, or `MutexGuard<Group>` coerce, and gives one error for
    // what is no group.
    let (first, last) = ends(group);
    let reference = {
        let group = quote_spanned!(last=> group);
        quote_spanned!(first=> &*#group)
    };
    let call = match &args.when {
        None => quote_spanned!(own=> open(#reference, #site)),
        Some(when) => quote_spanned!(own=> open_when(#reference, #when, #site)),
    };
    quote_spanned!(own=> match &(#group) { group => #private::#call })
}

/// A `&'static Site`; the function's name is found only if it is asked for.
fn site(private: &TokenStream, at: Span) -> TokenStream {
    let own = Span::mixed_site();
    let place = quote_spanned!(at=> ::core::file!(), ::core::line!(), ::core::column!());
    quote_spanned!(own=> {
        fn here() -> &'static str {
            #private::function_around(here)
        }
        static SITE: #private::Site = #private::Site::new(#place, here);
        &SITE
    })
}
