//! What the macros expand to, and what they say. How the compiler takes it is for `symm-tests` to
//! show.

#![allow(clippy::expect_used)]

use proc_macro2::TokenStream;
use quote::quote;

use crate::{attribute, block, groups};

fn pretty(expansion: TokenStream) -> String {
    prettyplease::unparse(&syn::parse2(expansion).expect("items"))
}

/// The messages in an expansion.
fn messages(expansion: TokenStream) -> Vec<String> {
    let file: syn::File = syn::parse2(expansion).expect("items");
    let errors = file.items.iter().filter_map(|item| match item {
        syn::Item::Macro(item) => Some(
            item.mac
                .parse_body::<syn::LitStr>()
                .expect("a message")
                .value(),
        ),
        _ => None,
    });
    errors.collect()
}

#[test]
fn an_annotated_method() {
    let expansion = attribute::expand(
        quote!(group = self.tp, when = self.large),
        &quote! {
            /// Docs.
            pub fn split(&mut self, n: usize) -> Result<impl Iterator<Item = u8>> {
                half typed
            }
        },
    );
    let expected = "\
impl Layer {
    /// Docs.
    pub fn split(&mut self, n: usize) -> Result<impl Iterator<Item = u8>> {
        let opened = match &(self.tp) {
            group => {
                ::symm_core::__private::open_when(
                    &*group,
                    self.large,
                    {
                        fn here() -> &'static str {
                            ::symm_core::__private::function_around(here)
                        }
                        static SITE: ::symm_core::__private::Site = ::symm_core::__private::Site::new(
                            ::core::file!(),
                            ::core::line!(),
                            ::core::column!(),
                            here,
                        );
                        &SITE
                    },
                )
            }
        };
        let run = ::symm_core::__private::Annotated::new(
            opened,
            move || -> Result<_> { todo!() },
        );
        {
            #[allow(unused_imports)]
            use ::symm_core::__private::{self as private, Plain as _};
            run.finish(private::Unspecified)
        }
    }
}
";
    // prettyplease wants a body that parses; the macro does not.
    let expansion: TokenStream = expansion
        .to_string()
        .replace("half typed", "todo!()")
        .parse()
        .expect("tokens");
    assert_eq!(pretty(quote!(impl Layer { #expansion })), expected);
}

#[test]
fn a_block() {
    let expansion = block::expand(quote!(group = tp(), crate = crate::symm, { work()? }));
    let expected = "\
fn f() {
    {
        let opened = match &(tp()) {
            group => {
                crate::symm::__private::open(
                    &*group,
                    {
                        fn here() -> &'static str {
                            crate::symm::__private::function_around(here)
                        }
                        static SITE: crate::symm::__private::Site = crate::symm::__private::Site::new(
                            ::core::file!(),
                            ::core::line!(),
                            ::core::column!(),
                            here,
                        );
                        &SITE
                    },
                )
            }
        };
        match opened {
            ::core::result::Result::Ok(scope) => {
                match { work()? } {
                    #[allow(unreachable_code)]
                    value => crate::symm::__private::finish_block(scope, value),
                }
            }
            ::core::result::Result::Err(refused) => {
                ::core::result::Result::Err(refused.into_error())
            }
        }
    }
}
";
    assert_eq!(pretty(quote!(fn f() { #expansion })), expected);
}

#[test]
fn all_errors_are_reported_beside_the_item() {
    let item = quote!(
        async fn f() {}
    );
    let expansion = attribute::expand(
        quote!(gruop = a, when = , group = b c, on_error = ignore, when = d),
        &item,
    );
    assert!(expansion.to_string().contains(&item.to_string()));
    assert_eq!(
        messages(expansion),
        [
            "unknown key `gruop`: did you mean `group`?",
            "expected an expression",
            "expected `,`",
            "`on_error` is `poison` or `panic`",
            "a scope cannot be held across `.await`: move what allocates into a function that is not async, \
             annotate that one, and call it from the thread that runs the model (see symm_core::guide::servers)",
        ]
    );
}

#[test]
fn a_faulty_block_is_still_a_result() {
    let expansion = block::expand(quote!(group = tp { work() })).to_string();
    assert!(
        expansion.contains("expected `,` before the block"),
        "{expansion}"
    );
    assert!(
        expansion.ends_with(":: Result :: < _ , :: symm_core :: Error > :: Ok ({ work () }) }"),
        "{expansion}"
    );
}

#[test]
fn await_is_refused_unless_it_runs_later() {
    let refused = |body: TokenStream| {
        block::expand(quote!(group = tp, { #body }))
            .to_string()
            .contains("compile_error")
    };
    assert!(refused(quote!(f().await)));
    assert!(refused(quote!(g(async { f().await }, f().await))));
    assert!(refused(quote!(if x {
        f().await
    })));
    assert!(!refused(quote!(async move { f().await })));
    assert!(!refused(quote!(spawn(async |a, b| a.f(b).await))));
    assert!(!refused(quote!(
        async fn f<A>(a: A) -> [A; 2]
        where
            A: B,
        {
            a.await
        },
        f()
    )));
    assert!(!refused(quote!(x.r#await)));
}

#[test]
fn faulty_groups_leave_the_others() {
    let expansion = groups::expand(quote! {
        pub Tp = "tp";
        pub Tp = "again";
        Pp = "tp";
        struct Dp;
        arena(Tp);
        arena(Tp, Ppp);
        pub Cp = "cp";
    });
    assert!(expansion.to_string().contains("enum Cp"));
    assert_eq!(
        messages(expansion),
        [
            "the group `Tp` is declared twice",
            "the group `Tp` has this name already",
            "expected identifier, found keyword `struct`",
            "an arena is shared by two groups or more; a group that is in none has its own",
            "the group `Tp` is in an arena already",
            "unknown group `Ppp`: did you mean `Pp`?",
        ]
    );
}
