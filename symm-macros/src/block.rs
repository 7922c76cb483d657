//! `symm!(group = .., { .. })`: a block in a scope.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::quote_spanned;
use syn::Error;

use crate::args::Args;
use crate::diagnostics::Errors;
use crate::open::open;

const KEYS: &[&str] = &["group", "when", "crate"];

pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let own = Span::mixed_site();
    let mut errors = Errors::default();
    let (arguments, block) = split(input, &mut errors);
    let args = Args::parse(arguments, KEYS, &mut errors);
    refuse_await(block.stream(), &mut errors);
    let (krate, private) = (args.krate(), args.private());
    match &args.group {
        Some(group) if errors.is_empty() => {
            let opened = open(&args, group, Span::call_site());
            quote_spanned! {own=> {
                let opened = #opened;
                match opened {
                    ::core::result::Result::Ok(scope) => match #block {
                        #[allow(unreachable_code)]
                        value => #private::finish_block(scope, value),
                    },
                    ::core::result::Result::Err(refused) => ::core::result::Result::Err(refused.into_error()),
                }
            }}
        }
        _ => quote_spanned! {own=> {
            #errors
            ::core::result::Result::<_, #krate::Error>::Ok(#block)
        }},
    }
}

/// The arguments and the block; a missing block is an error, and empty.
fn split(input: TokenStream, errors: &mut Errors) -> (TokenStream, Group) {
    let mut tokens: Vec<TokenTree> = input.into_iter().collect();
    tokens.pop_if(|last| is_punct(last, ','));
    let last = tokens.pop();
    if let Some(block) = last.as_ref().and_then(braces) {
        if tokens.last().is_some_and(|last| !is_punct(last, ',')) {
            errors.push(Error::new(
                block.span_open(),
                "expected `,` before the block",
            ));
        }
        (tokens.into_iter().collect(), own(&block))
    } else {
        let span = last.map_or_else(Span::call_site, |last| last.span());
        errors.push(Error::new(
            span,
            "`symm!` ends with a block: `symm!(group = tp, { .. })`",
        ));
        (
            TokenStream::new(),
            Group::new(Delimiter::Brace, TokenStream::new()),
        )
    }
}

/// The same block at the same place, but the macro's own: lints call a user's braces superfluous
/// here.
fn own(block: &Group) -> Group {
    let mut own = Group::new(block.delimiter(), block.stream());
    own.set_span(Span::mixed_site().located_at(block.span()));
    own
}

/// The `{ .. }` that `token` is, also as a `$block:block` of a `macro_rules!` macro.
pub(crate) fn braces(token: &TokenTree) -> Option<Group> {
    let TokenTree::Group(group) = token else {
        return None;
    };
    match group.delimiter() {
        Delimiter::Brace => Some(group.clone()),
        Delimiter::None => braces(&group.stream().into_iter().next()?),
        _ => None,
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// Refuses `.await`, which would let other tasks allocate in this scope. Nested async code may
/// wait: it runs later.
fn refuse_await(block: TokenStream, errors: &mut Errors) {
    let mut after_dot = false;
    let mut in_async = false;
    for token in block {
        match &token {
            TokenTree::Ident(word) if word == "async" => in_async = true,
            TokenTree::Ident(word) if word == "await" && after_dot && !in_async => errors.push(Error::new(
                word.span(),
                "a scope cannot be held across `.await`: wait before `symm!`, or move what allocates into a \
                 function that is not async",
            )),
            TokenTree::Group(group) => {
                if !in_async {
                    refuse_await(group.stream(), errors);
                }
                in_async &= group.delimiter() != Delimiter::Brace;
            }
            token if is_punct(token, ';') => in_async = false,
            _ => {}
        }
        after_dot = is_punct(&token, '.');
    }
}
