//! `groups! { .. }`: the tags of groups, and which of them share an arena.

use std::fmt;

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, LitStr, Path, Result, Token, Visibility, parenthesized, token};

use crate::args::krate;
use crate::diagnostics::{Errors, did_you_mean};

pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let groups = Groups::parse(input, &mut errors);
    groups.check_arenas(&mut errors);
    let krate = krate(groups.krate.as_ref());
    let tags = groups
        .tags
        .iter()
        .map(|tag| tag.expand(&krate, groups.arena_of(tag)));
    quote!(#(#tags)* #errors)
}

/// Everything between the braces.
#[derive(Default)]
struct Groups {
    krate: Option<Path>,
    tags: Vec<Tag>,
    arenas: Vec<Arena>,
}

/// `pub Tp = "tp";`
struct Tag {
    attrs: Vec<Attribute>,
    vis: Visibility,
    ident: Ident,
    name: LitStr,
}

/// `arena(Tp, Cp);`
struct Arena {
    keyword: Ident,
    members: Vec<Ident>,
}

impl Groups {
    /// Parses statement by statement. Whatever is wrong goes to `errors`, the rest is kept.
    fn parse(input: TokenStream, errors: &mut Errors) -> Self {
        let mut groups = Self::default();
        errors.parse_parts::<Token![;]>(input, |input| groups.statement(input));
        groups
    }

    fn statement(&mut self, input: ParseStream) -> Result<()> {
        if input.peek(Token![crate]) && input.peek2(Token![=]) {
            input.parse::<Token![crate]>()?;
            input.parse::<Token![=]>()?;
            self.krate = Some(input.call(Path::parse_mod_style)?);
        } else if input.peek(syn::Ident) && input.peek2(token::Paren) {
            self.arenas.push(input.parse()?);
        } else {
            self.declare(input.parse()?)?;
        }
        input.parse::<Token![;]>()?;
        Ok(())
    }

    fn declare(&mut self, tag: Tag) -> Result<()> {
        if self.tags.iter().any(|other| other.ident == tag.ident) {
            return Err(Error::new(
                tag.ident.span(),
                format!("the group `{}` is declared twice", tag.ident),
            ));
        }
        let name = tag.name.value();
        let same = self
            .tags
            .iter()
            .find(|other| other.name.value() == name)
            .map(|other| other.ident.clone());
        let span = tag.name.span();
        self.tags.push(tag);
        match same {
            _ if name.is_empty() => Err(Error::new(
                span,
                "a group needs a name, which reports and errors show",
            )),
            Some(other) => Err(Error::new(
                span,
                format!("the group `{other}` has this name already"),
            )),
            None => Ok(()),
        }
    }

    fn check_arenas(&self, errors: &mut Errors) {
        let tags: Vec<String> = self.tags.iter().map(|tag| tag.ident.to_string()).collect();
        let mut seen: Vec<&Ident> = Vec::new();
        for Arena { keyword, members } in &self.arenas {
            if members.len() < 2 {
                let message =
                    "an arena is shared by two groups or more; a group that is in none has its own";
                errors.push(Error::new(keyword.span(), message));
            }
            for member in members {
                if !self.tags.iter().any(|tag| tag.ident == *member) {
                    let message = format!(
                        "unknown group `{member}`: {}",
                        did_you_mean(&member.to_string(), &tags)
                    );
                    errors.push(Error::new(member.span(), message));
                } else if seen.contains(&member) {
                    errors.push(Error::new(
                        member.span(),
                        format!("the group `{member}` is in an arena already"),
                    ));
                }
                seen.push(member);
            }
        }
    }

    fn arena_of(&self, tag: &Tag) -> Option<&Arena> {
        self.arenas
            .iter()
            .find(|arena| arena.members.contains(&tag.ident))
    }
}

impl Parse for Tag {
    fn parse(input: ParseStream) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let ident: Ident = input.parse()?;
        let needs_name = |error: Error| {
            Error::new(
                error.span(),
                format!("expected a name: `{ident} = \"..\";`"),
            )
        };
        input.parse::<Token![=]>().map_err(needs_name)?;
        let name = input.parse().map_err(needs_name)?;
        Ok(Self {
            attrs,
            vis,
            ident,
            name,
        })
    }
}

impl Tag {
    fn expand(&self, krate: &TokenStream, arena: Option<&Arena>) -> TokenStream {
        let Self {
            attrs,
            vis,
            ident,
            name,
        } = self;
        let cfgs = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
        let arena = arena.map(|arena| {
            let path = format!("::{arena}");
            quote! {
                const ARENA: ::core::option::Option<&'static str> =
                    ::core::option::Option::Some(::core::concat!(::core::module_path!(), #path));
            }
        });
        quote! {
            #(#attrs)*
            #[derive(
                ::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug, ::core::hash::Hash,
                ::core::cmp::PartialEq, ::core::cmp::Eq, ::core::cmp::PartialOrd, ::core::cmp::Ord,
            )]
            #vis enum #ident {}

            #(#cfgs)*
            impl #krate::GroupTag for #ident {
                const NAME: &'static str = #name;
                #arena
            }
        }
    }
}

impl Parse for Arena {
    fn parse(input: ParseStream) -> Result<Self> {
        let keyword: Ident = input.parse()?;
        if keyword != "arena" {
            let message = format!("expected `arena(..)` or a group: `pub {keyword} = \"..\";`");
            return Err(Error::new(keyword.span(), message));
        }
        let content;
        parenthesized!(content in input);
        let members = Punctuated::<Ident, Token![,]>::parse_terminated(&content)?;
        Ok(Self {
            keyword,
            members: members.into_iter().collect(),
        })
    }
}

/// As the user wrote it.
impl fmt::Display for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<String> = self.members.iter().map(Ident::to_string).collect();
        write!(f, "arena({})", members.join(", "))
    }
}
