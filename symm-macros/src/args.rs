//! The arguments of `#[symmetric(..)]` and `symm!(.., { .. })`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, Path, Result, Token};

use crate::diagnostics::{Errors, did_you_mean};

/// What the user wrote between the parentheses.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) group: Option<Expr>,
    pub(crate) when: Option<Expr>,
    pub(crate) on_error: Option<Policy>,
    krate: Option<Path>,
}

impl Args {
    /// Parses `key = value, ..` with the given `keys`. Whatever is wrong goes to `errors`, the rest
    /// is kept.
    pub(crate) fn parse(tokens: TokenStream, keys: &[&str], errors: &mut Errors) -> Self {
        let mut args = Self::default();
        errors.parse_parts::<Token![,]>(tokens, |input| args.argument(input, keys));
        if args.group.is_none() && errors.is_empty() {
            errors.push(Error::new(
                Span::call_site(),
                "a scope needs a group: `group = self.tp`, or any other expression that gives a `Group`",
            ));
        }
        args
    }

    fn argument(&mut self, input: ParseStream, keys: &[&str]) -> Result<()> {
        let start = input.span();
        let key = input
            .call(Ident::parse_any)
            .ok()
            .filter(|_| input.peek(Token![=]));
        let Some(key) = key else {
            return Err(Error::new(
                start,
                "expected `key = value`, such as `group = self.tp`",
            ));
        };
        let name = key.to_string();
        if !keys.contains(&name.as_str()) {
            return Err(Error::new(
                key.span(),
                format!("unknown key `{name}`: {}", did_you_mean(&name, keys)),
            ));
        }
        input.parse::<Token![=]>()?;
        match name.as_str() {
            "group" => set(&mut self.group, &key, input.parse()?)?,
            "when" => set(&mut self.when, &key, input.parse()?)?,
            "on_error" => set(&mut self.on_error, &key, input.parse()?)?,
            _ => set(&mut self.krate, &key, input.call(Path::parse_mod_style)?)?,
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
        Ok(())
    }

    pub(crate) fn krate(&self) -> TokenStream {
        krate(self.krate.as_ref())
    }

    /// The path of the hidden module that expansions call.
    pub(crate) fn private(&self) -> TokenStream {
        let krate = self.krate();
        quote!(#krate::__private)
    }
}

/// The path of symm-core: the one given by `crate = ..`, else `::symm_core`.
pub(crate) fn krate(given: Option<&Path>) -> TokenStream {
    given.map_or_else(|| quote!(::symm_core), ToTokens::to_token_stream)
}

/// What a function does with a failed registration that it cannot return: a type of `__private`.
pub(crate) struct Policy(Ident);

impl Parse for Policy {
    fn parse(input: ParseStream) -> Result<Self> {
        let span = input.span();
        let word = input
            .parse::<Ident>()
            .map(|word| word.to_string())
            .unwrap_or_default();
        match word.as_str() {
            "poison" => Ok(Self(Ident::new("Poison", span))),
            "panic" => Ok(Self(Ident::new("Panic", span))),
            _ => Err(Error::new(span, "`on_error` is `poison` or `panic`")),
        }
    }
}

impl ToTokens for Policy {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.0.to_tokens(tokens);
    }
}

fn set<T>(slot: &mut Option<T>, key: &Ident, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new(key.span(), format!("`{key}` is given twice"))),
    }
}
