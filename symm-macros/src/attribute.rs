//! `#[symmetric(group = ..)]`: the body of a function in a scope.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::visit::Visit;
use syn::visit_mut::VisitMut;
use syn::{
    Attribute, Error, GenericArgument, PathArguments, PathSegment, Result, ReturnType, Signature,
    Token, TraitBound, Type, Visibility,
};

use crate::args::Args;
use crate::block::braces;
use crate::diagnostics::{Errors, ends};
use crate::open::open;

const KEYS: &[&str] = &["group", "when", "on_error", "crate"];

pub(crate) fn expand(args: TokenStream, item: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let args = Args::parse(args, KEYS, &mut errors);
    let function = errors.keep(Function::parse.parse2(item.clone()));
    if let Some(function) = &function {
        function.check(&mut errors);
    }
    match (&args.group, function) {
        (Some(group), Some(function)) if errors.is_empty() => {
            let opened = open(&args, group, function.sig.ident.span());
            function.expand(&args, &opened)
        }
        // What the arguments alone use is not used here, which is not what is wrong.
        _ => quote_spanned!(Span::mixed_site()=> #[allow(unused_variables)] #item #errors),
    }
}

/// A function whose body is left unparsed: half-typed code still expands, so that editors can
/// complete it.
struct Function {
    attrs: Vec<Attribute>,
    vis: Visibility,
    sig: Signature,
    inner_attrs: Vec<Attribute>,
    body: Group,
}

impl Parse for Function {
    fn parse(input: ParseStream) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let start = input.span();
        let is_fn = |token| matches!(token, TokenTree::Ident(word) if word == "fn");
        if !input.fork().parse::<TokenStream>()?.into_iter().any(is_fn) {
            return Err(Error::new(
                start,
                "`#[symmetric]` annotates a function or a method",
            ));
        }
        let sig: Signature = input.parse()?;
        let Some(mut body) = braces(&input.parse()?) else {
            return Err(Error::new(
                sig.ident.span(),
                "there is no body here to run in a scope: annotate the functions that implement or call this one",
            ));
        };
        let parts = |input: ParseStream| Ok((input.call(Attribute::parse_inner)?, input.parse()?));
        let (inner_attrs, rest): (Vec<_>, TokenStream) = parts.parse2(body.stream())?;
        if !inner_attrs.is_empty() {
            let span = body.span();
            body = Group::new(body.delimiter(), rest);
            body.set_span(span);
        }
        Ok(Self {
            attrs,
            vis,
            sig,
            inner_attrs,
            body,
        })
    }
}

impl Function {
    /// Refuses what would run outside of the scope or before there is one.
    fn check(&self, errors: &mut Errors) {
        if let Some(constness) = &self.sig.constness {
            errors.push(Error::new(
                constness.span,
                "a `const fn` cannot open a scope: that happens at run time",
            ));
        }
        if let Some(asyncness) = &self.sig.asyncness {
            errors.push(Error::new(
                asyncness.span,
                "a scope cannot be held across `.await`: move what allocates into a function that is not async, \
                 annotate that one, and call it from the thread that runs the model (see symm_core::guide::servers)",
            ));
        }
        Futures(errors).visit_return_type(&self.sig.output);
    }

    fn expand(self, args: &Args, opened: &TokenStream) -> TokenStream {
        let own = Span::mixed_site();
        let private = args.private();
        let Self {
            attrs,
            vis,
            sig,
            inner_attrs,
            body,
        } = self;
        let mut returns = sig.output.clone();
        EraseImplTrait.visit_return_type_mut(&mut returns);

        // What is wrong with the return type or with its error type is said there.
        let (returned, error) = match &sig.output {
            ReturnType::Default => (sig.ident.to_token_stream(), sig.ident.to_token_stream()),
            ReturnType::Type(_, ty) => (ty.to_token_stream(), error_type(ty).to_token_stream()),
        };
        let (first, last) = ends(&returned);
        let private_there = quote_spanned!(first=> private);
        let policy = args.on_error.as_ref().map_or_else(
            || quote_spanned!(last=> Unspecified),
            ToTokens::to_token_stream,
        );
        let finish = quote_spanned!(ends(&error).0=> finish);
        // By method, so that the compiler knows a `Result` by its type and prefers it; `impl Trait`
        // hides its type.
        let result = if is_impl_trait(&sig.output) {
            quote_spanned!(own=> private::Plain::#finish(run, #private_there::#policy))
        } else {
            quote_spanned!(own=> run.#finish(#private_there::#policy))
        };
        quote_spanned! {own=>
            #(#attrs)*
            #vis #sig {
                #(#inner_attrs)*
                let opened = #opened;
                let run = #private::Annotated::new(opened, move || #returns #body);
                {
                    #[allow(unused_imports)] // `Plain`, where the method is not of it
                    use #private::{self as private, Plain as _};
                    #result
                }
            }
        }
    }
}

/// Finds futures in a return type: their code runs when the scope has closed.
struct Futures<'a>(&'a mut Errors);

impl<'ast> Visit<'ast> for Futures<'_> {
    fn visit_trait_bound(&mut self, bound: &'ast TraitBound) {
        if bound
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Future")
        {
            self.0.push(Error::new_spanned(
                bound,
                "the returned future would run after the scope has closed: move what allocates into a function of \
                 its own, and annotate that one (see symm_core::guide::servers)",
            ));
        }
    }
}

/// Replaces `impl Trait`, which a closure cannot return by name, by `_`.
struct EraseImplTrait;

impl VisitMut for EraseImplTrait {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::ImplTrait(_) = ty {
            *ty = Type::Infer(syn::TypeInfer {
                attrs: Vec::new(),
                underscore_token: <Token![_]>::default(),
            });
        } else {
            syn::visit_mut::visit_type_mut(self, ty);
        }
    }
}

/// The `E` of `Result<T, E>` where it is written out, else the whole type.
fn error_type(returned: &Type) -> &Type {
    if let Type::Path(path) = returned
        && let Some(PathSegment {
            arguments: PathArguments::AngleBracketed(arguments),
            ..
        }) = path.path.segments.last()
        && let (2, Some(GenericArgument::Type(error))) =
            (arguments.args.len(), arguments.args.last())
    {
        error
    } else {
        returned
    }
}

fn is_impl_trait(output: &ReturnType) -> bool {
    fn is(ty: &Type) -> bool {
        match ty {
            Type::ImplTrait(_) => true,
            Type::Group(group) => is(&group.elem),
            Type::Paren(paren) => is(&paren.elem),
            _ => false,
        }
    }
    matches!(output, ReturnType::Type(_, ty) if is(ty))
}
