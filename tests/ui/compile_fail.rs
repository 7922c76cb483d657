//! What the compiler says to programs that are wrong (`fail`), and to hostile ones that are not
//! (`pass`).

#[rustversion::attr(not(stable(1.95)), ignore = "the messages are those of rustc 1.95")]
#[test]
fn messages() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
    cases.pass("pass/*.rs");
}
