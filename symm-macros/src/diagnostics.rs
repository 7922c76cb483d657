//! Errors of one expansion, collected and reported together, and where they are shown.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::token::Token;
use syn::{Error, Result};

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// The value of `result`; an error is kept for the report.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// Parses all `tokens` with `part`, again and again; after an error it goes on behind the next
    /// `End`.
    pub(crate) fn parse_parts<End: Parse + Token>(
        &mut self,
        tokens: TokenStream,
        mut part: impl FnMut(ParseStream) -> Result<()>,
    ) {
        let parts = |input: ParseStream| {
            while !input.is_empty() {
                if self.keep(part(input)).is_none() {
                    while !input.is_empty() && input.parse::<Option<End>>()?.is_none() {
                        input.parse::<TokenTree>()?;
                    }
                }
            }
            Ok(())
        };
        let outcome = parts.parse2(tokens);
        self.keep(outcome);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl ToTokens for Errors {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.0.as_ref().map(Error::to_compile_error));
    }
}

/// The end of a message about an unknown `word`: the known word that was probably meant, else all
/// of them.
pub(crate) fn did_you_mean<S: AsRef<str>>(word: &str, known: &[S]) -> String {
    let similarity = |known: &&str| strsim::jaro_winkler(word, known);
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let closest = known
        .iter()
        .copied()
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match closest {
        Some(closest) if similarity(&closest) > 0.8 => format!("did you mean `{closest}`?"),
        _ => format!("expected one of `{}`", known.join("`, `")),
    }
}

/// The places of the first and the last token of `tokens`, for names of the macro's own.
///
/// Stable Rust cannot join spans, but the compiler does: an expression whose first and last token
/// are placed at these two is underlined as a whole.
pub(crate) fn ends(tokens: &impl ToTokens) -> (Span, Span) {
    let own = |span| Span::mixed_site().located_at(span);
    let tokens: Vec<TokenTree> = tokens.to_token_stream().into_iter().collect();
    let first = match tokens.first() {
        Some(TokenTree::Group(group)) => group.span_open(),
        first => first.map_or_else(Span::call_site, TokenTree::span),
    };
    let last = match tokens.last() {
        Some(TokenTree::Group(group)) => group.span_close(),
        last => last.map_or_else(Span::call_site, TokenTree::span),
    };
    (own(first), own(last))
}
