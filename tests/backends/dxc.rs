//! Microsoft's HLSL compiler DXC as a library, called as wgpu calls it. Its interface is COM, which is an address of a table of functions.

use super::{dx12::Hlsl, process::Process};
use libloading::Library;
use std::{
    env,
    ffi::c_void,
    io::{self, BufRead, Read, Write},
    mem::transmute_copy,
    path::Path,
    process::Command,
    ptr::null_mut,
    slice,
    sync::LazyLock,
};

/// The library that `$DXC` names.
pub static DXC: LazyLock<Result<Dxc, String>> = LazyLock::new(|| match env::var_os("DXC") {
    Some(path) => Dxc::open(path.as_ref()),
    None => Err("$DXC names no library; scripts/dxc.sh prints one".to_string()),
});

/// The argument with which the test's program is a compiler.
pub const SERVE: &str = "dxc";

/// DXC 1.7 crashed once where several threads of one process compiled, so each thread has a process.
pub fn process() -> Process {
    Process::new(Command::new(env::current_exe().expect("a test has a file")).arg(SERVE))
}

/// Compiles the texts that come in, as `scripts/fxc.c` does.
pub fn serve() -> io::Result<()> {
    let dxc = DXC.as_ref().map_err(|why| io::Error::other(why.clone()))?;
    let compiler = dxc.compiler().map_err(io::Error::other)?;
    let (mut texts, mut line) = (io::stdin().lock(), String::new());
    while texts.read_line(&mut line)? > 0 {
        let (entry, bytes) = line.trim_end().split_once(' ').ok_or_else(|| io::Error::other(format!("no text: {line}")))?;
        let mut text = vec![0; bytes.parse().map_err(io::Error::other)?];
        texts.read_exact(&mut text)?;
        let hlsl = Hlsl { text: String::from_utf8(text).map_err(io::Error::other)?, entry: entry.to_string() };
        match compiler.compile(&hlsl) {
            Ok(()) => println!("ok"),
            Err(why) => print!("refused {}\n{why}", why.len()),
        }
        io::stdout().flush()?;
        line.clear();
    }
    Ok(())
}

/// A character of a wide string.
#[cfg(windows)]
type Wide = u16;
#[cfg(not(windows))]
type Wide = u32;

fn wide(text: &str) -> Vec<Wide> {
    text.bytes().map(Wide::from).chain([0]).collect()
}

#[repr(C)]
struct Guid(u32, u16, u16, [u8; 8]);

const COMPILER: Guid = Guid(0x73e2_2d93, 0xe6ce, 0x47f3, [0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0]);
const ICOMPILER3: Guid = Guid(0x228b_4687, 0x5a6a, 0x4730, [0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54]);
const IRESULT: Guid = Guid(0x5834_6cda, 0xdde7, 0x4497, [0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59]);
const IVERSION_INFO2: Guid = Guid(0xfb69_04c4, 0x42f0, 0x4b62, [0x9c, 0x46, 0x98, 0x3a, 0xf7, 0xda, 0x7c, 0x83]);

/// `DxcBuffer`.
#[repr(C)]
struct Buffer {
    text: *const u8,
    bytes: usize,
    encoding: u32,
}
const UTF8: u32 = 65001;

type This = *mut c_void;
type Create = unsafe extern "system" fn(class: *const Guid, interface: *const Guid, object: *mut This) -> i32;
type Release = unsafe extern "system" fn(This) -> u32;
type GetVersion = unsafe extern "system" fn(This, *mut u32, *mut u32) -> i32;
type Compile = unsafe extern "system" fn(This, *const Buffer, *const *const Wide, u32, *mut c_void, *const Guid, *mut This) -> i32;
type GetStatus = unsafe extern "system" fn(This, *mut i32) -> i32;
type GetErrorBuffer = unsafe extern "system" fn(This, *mut This) -> i32;
type GetBufferPointer = unsafe extern "system" fn(This) -> *const u8;
type GetBufferSize = unsafe extern "system" fn(This) -> usize;

/// A COM object.
struct Object(This);

impl Object {
    /// The object that `make` writes.
    fn new(make: impl FnOnce(*mut This) -> i32) -> Result<Object, String> {
        let mut object = null_mut();
        match make(&mut object) {
            result if result < 0 || object.is_null() => Err(format!("no object: {result:#x}")),
            _ => Ok(Object(object)),
        }
    }
    /// The method of this slot.
    ///
    /// # Safety
    /// `F` is the type of the method.
    unsafe fn method<F>(&self, slot: usize) -> F {
        // SAFETY: an object begins with the address of its table of methods, and the caller knows the type of this one.
        unsafe { transmute_copy(&*(*self.0.cast::<*const *const c_void>()).add(slot)) }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: `Release` is in slot 2 of every object, and this is the only reference.
        unsafe { self.method::<Release>(2)(self.0) };
    }
}

pub struct Dxc {
    create: Create,
    /// The slot of the first method of an interface.
    first: usize,
    pub version: String,
    _library: Library,
}

impl Dxc {
    fn open(path: &Path) -> Result<Dxc, String> {
        let failed = |e: libloading::Error| format!("{}: {e}", path.display());
        // SAFETY: the user named the library, and DXC's function of this name has this type.
        let (library, create) = unsafe {
            let library = Library::new(path).map_err(failed)?;
            let create = *library.get::<Create>(b"DxcCreateInstance").map_err(failed)?;
            (library, create)
        };
        let mut dxc = Dxc { create, first: 3, version: String::new(), _library: library };
        let info = dxc.object(&IVERSION_INFO2)?;
        // Outside of Windows, old versions have two destructors before the methods. This interface has three methods: its slot 6 is
        // one of them, or else it is behind the table, where C++ keeps the small distance to the next one.
        // SAFETY: slots are as large as an address, and what is behind a table is data of the library.
        let slot: isize = unsafe { info.method(6) };
        if !cfg!(windows) && !(-0x10000..0x10000).contains(&slot) {
            dxc.first = 5;
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the first method is `GetVersion`.
        unsafe { info.method::<GetVersion>(dxc.first)(info.0, &mut major, &mut minor) };
        dxc.version = format!("{major}.{minor}");
        Ok(dxc)
    }
    fn object(&self, interface: &Guid) -> Result<Object, String> {
        // SAFETY: the arguments are valid for the call.
        Object::new(|object| unsafe { (self.create)(&COMPILER, interface, object) })
    }
    /// A compiler for one thread.
    fn compiler(&self) -> Result<Compiler<'_>, String> {
        Ok(Compiler { dxc: self, object: self.object(&ICOMPILER3)? })
    }
}

struct Compiler<'a> {
    dxc: &'a Dxc,
    object: Object,
}

impl Compiler<'_> {
    /// Compiles with the arguments of wgpu. As for wgpu, any text of the compiler is an error, but for one: outside of Windows nothing signs
    /// shaders.
    fn compile(&self, hlsl: &Hlsl) -> Result<(), String> {
        let arguments = ["-E", &hlsl.entry, "-T", "cs_6_0", "-HV", "2018", "-no-warnings", "-Ges"].map(wide);
        let arguments = arguments.each_ref().map(|text| text.as_ptr());
        let source = Buffer { text: hlsl.text.as_ptr(), bytes: hlsl.text.len(), encoding: UTF8 };
        let (first, count) = (self.dxc.first, arguments.len() as u32);
        let mut status = -1;
        // SAFETY: the slots are those of `IDxcCompiler3`, `IDxcResult` and `IDxcBlobEncoding`, whose methods have these types; what they
        // are given outlives the calls.
        let said = unsafe {
            let compile = self.object.method::<Compile>(first);
            let result = Object::new(|to| compile(self.object.0, &source, arguments.as_ptr(), count, null_mut(), &IRESULT, to))?;
            result.method::<GetStatus>(first)(result.0, &mut status);
            let errors = Object::new(|to| result.method::<GetErrorBuffer>(first + 2)(result.0, to))?;
            let text = errors.method::<GetBufferPointer>(first)(errors.0);
            let bytes = errors.method::<GetBufferSize>(first + 1)(errors.0);
            let text = if text.is_null() { &[] } else { slice::from_raw_parts(text, bytes) };
            String::from_utf8_lossy(text).into_owned()
        };
        let said = said.lines().map(|line| line.trim_matches('\0')).filter(|line| !line.is_empty() && !line.contains("DXIL.dll not found"));
        let said = said.collect::<Vec<_>>().join("\n");
        if status >= 0 && said.is_empty() { Ok(()) } else { Err(said) }
    }
}
