//! The committed header is the generated one, and says what C needs to know.

const GENERATED: &str = include_str!(env!("GRAPHDRIVER_GENERATED_HEADER"));
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/graphdriver.h");

#[test]
fn the_committed_header_is_the_generated_one() {
    if std::env::var_os("GRAPHDRIVER_BLESS").is_some() {
        std::fs::write(COMMITTED, GENERATED).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == GENERATED, "include/graphdriver.h is stale; run GRAPHDRIVER_BLESS=1 cargo test --test header");
}

#[test]
fn every_function_documents_its_arguments_return_value_and_threads() {
    let mut comment = String::new();
    let mut seen = Vec::new();
    for line in GENERATED.lines() {
        if let Some(text) = line.strip_prefix("//") {
            comment.push_str(text);
            comment.push('\n');
            continue;
        }
        if let Some((declaration, arguments)) = line
            .split_once('(')
            .filter(|(d, _)| (d.contains("graphdriver_") || d.contains("free_driver_")) && !d.starts_with(['#', ' ']))
        {
            if declaration.starts_with("typedef") {
                continue;
            }
            seen.push(declaration.to_owned());
            let documented = |word: &str| comment.contains(word) || comment.contains("The same as");
            assert!(documented("hread"), "{declaration}: says nothing about threads");
            let void = declaration.starts_with("void") || declaration.contains("version");
            assert!(void || documented("@return"), "{declaration}: says nothing about its result");
            assert!(arguments.starts_with("void") || documented("NULL"), "{declaration}: says nothing about NULL");
        }
        comment.clear();
    }
    assert_eq!(seen.len(), 33, "{seen:#?}");
}
