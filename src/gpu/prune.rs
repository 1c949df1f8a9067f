//! Removes the parts of a shader that its entry point does not use, and writes types for their aliases.
//!
//! A file has several entry points, and each pass declares only its own bindings. Other entry points may read other bindings.
//! So they, their helpers and their workgroup memory must not be in the module.
//!
//! For naga, `alias V = f32;` makes a second type. Its HLSL gets one helper for each type but names the helper by the type's
//! spelling in HLSL. So a module with `V()` and `f32()`, or with `array<V, 4>` and `array<f32, 4>`, would define one helper twice,
//! and DX12's compiler would refuse it. A module without aliases cannot have this mistake.

use std::collections::{HashMap, HashSet};

/// Returns the declarations of `text` that `entry` uses directly or indirectly, and the declarations without a name, in order.
/// The text has types where `text` has names of aliases.
pub(super) fn reachable(text: &str, entry: &str) -> String {
    let items = items(text);
    let mut kept: HashSet<usize> = HashSet::new();
    let mut wanted = vec![entry];
    wanted.extend(items.iter().filter(|item| item.name.is_none()).flat_map(|item| item.words()));
    while let Some(name) = wanted.pop() {
        for (i, item) in items.iter().enumerate().filter(|(_, item)| item.name == Some(name)) {
            if kept.insert(i) {
                wanted.extend(item.words());
            }
        }
    }
    let aliases: HashMap<&str, &[&str]> = items.iter().filter_map(Item::alias).collect();
    let kept = items.iter().enumerate().filter(|(i, item)| item.name.is_none() || kept.contains(i)).map(|(_, item)| item);
    let mut out = String::with_capacity(text.len());
    for item in kept.filter(|item| item.alias().is_none()) {
        spell(pieces(item.text), &aliases, 0, &mut out);
    }
    out
}

/// Appends `pieces`, with the type for each name of an alias. A name after a `.` is a member and stays.
fn spell<'a>(pieces: impl Iterator<Item = &'a str>, aliases: &HashMap<&str, &[&str]>, depth: usize, out: &mut String) {
    let mut member = false;
    for piece in pieces {
        match aliases.get(piece) {
            // An alias of itself ends here, and the compiler reports it.
            Some(parts) if !member && depth <= aliases.len() => spell(parts.iter().copied(), aliases, depth + 1, out),
            _ => out.push_str(piece),
        }
        member = piece == "." || member && !is_code(piece);
    }
}

/// A declaration with the comments before it.
struct Item<'a> {
    text: &'a str,
    /// The declared name. `None` for a declaration without a name (`const_assert`) and for text that is not WGSL. The compiler
    /// reports such text.
    name: Option<&'a str>,
    tokens: Vec<&'a str>,
}

impl<'a> Item<'a> {
    fn new(text: &'a str, tokens: Vec<&'a str>) -> Item<'a> {
        let keyword = tokens.iter().position(|t| ["fn", "struct", "var", "const", "alias", "override"].contains(t));
        let mut rest = tokens.iter().skip(keyword.map_or(tokens.len(), |k| k + 1)).copied();
        let name = match rest.next() {
            Some("<") => rest.skip_while(|&t| t != ">").nth(1),
            other => other,
        };
        Item { text, name, tokens }
    }
    /// The name of an alias and the tokens of its type.
    fn alias(&self) -> Option<(&'a str, &[&'a str])> {
        match self.tokens.as_slice() {
            ["alias", name, "=", parts @ .., ";"] => Some((name, parts)),
            _ => None,
        }
    }
    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.tokens.iter().copied().filter(|t| t.starts_with(is_word))
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a piece is a token, rather than a comment or a space.
fn is_code(piece: &str) -> bool {
    !(piece.starts_with(char::is_whitespace) || piece.starts_with("//") || piece.starts_with("/*"))
}

/// Cuts `text` into words, comments and single other characters. Together they are `text`.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let c = rest.chars().next()?;
        let length = match c {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            _ if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let (piece, left) = rest.split_at(length);
        rest = left;
        Some(piece)
    })
}

/// Cuts `text` after every `;` and `}` outside all brackets.
fn items(text: &str) -> Vec<Item<'_>> {
    let (mut items, mut tokens, mut depth, mut start, mut at) = (Vec::new(), Vec::new(), 0i32, 0, 0);
    for piece in pieces(text) {
        at += piece.len();
        if !is_code(piece) {
            continue;
        }
        tokens.push(piece);
        match piece {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (piece == ";" || piece == "}") {
            items.push(Item::new(&text[start..at], std::mem::take(&mut tokens)));
            start = at;
        }
    }
    if !tokens.is_empty() {
        items.push(Item { text: &text[start..], name: None, tokens });
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_entry_reaches() {
        let text = "// y = f(x)   forward { ; }
const HALF = 0.5;
struct Pair { a: f32, b: array<f32, 2> };
var<workgroup> tile: array<f32, N>; /* other; } */
var<private> seen : u32;
const N = 4u;
alias Two = Pair;
const_assert N > 1u;
fn scaled(i: u32) -> f32 { return HALF * x[i]; }
fn unused() -> f32 { return w[0]; }
@compute @workgroup_size(N) fn forward(@builtin(local_invocation_index) i: u32) {
    if i > 1u { y[i] = scaled(i); } // tile
}
@compute @workgroup_size(N)
fn grad_x() { tile[0] = f32(seen); var p: Two; dx[0] = p.a; }
";
        let names = |entry| -> Vec<String> {
            let kept = reachable(text, entry);
            items(&kept).iter().filter_map(|i| i.name.map(str::to_string)).collect()
        };
        assert_eq!(names("forward"), ["HALF", "N", "scaled", "forward"]);
        assert_eq!(names("grad_x"), ["Pair", "tile", "seen", "N", "grad_x"]);
        assert!(reachable(text, "forward").contains("const_assert N > 1u;"));
        // Text that cannot be divided stays in the shader, and the compiler reports it.
        assert!(reachable("fn forward() { y[0] = 1.0; ", "forward").contains("y[0]"));
    }

    #[test]
    fn aliases_become_types() {
        let text = "const N = 2u;
alias Pair = array<V, N>; // V()
alias V = vec4 < f32 >;
alias Ring = Other;
alias Other = Ring;
fn forward() { var a: Pair; let v = V(); /* V */ b.V = Pair(v, V_of(b . V)); }
fn grad_x() { var r: Ring; }
";
        let spelled = "const N = 2u;
fn forward() { var a: array<vec4<f32>,N>; let v = vec4<f32>(); /* V */ b.V = array<vec4<f32>,N>(v, V_of(b . V)); }";
        assert_eq!(reachable(text, "forward"), spelled);
        // A type that never ends stays in the shader, and the compiler reports it.
        assert!(["Ring", "Other"].iter().any(|name| reachable(text, "grad_x").contains(&format!("var r: {name};"))));
    }
}
