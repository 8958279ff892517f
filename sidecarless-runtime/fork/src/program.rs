//! The program of a child that is not a process of its own yet: system calls and copies, one after the other, that
//! turn it into one. `interpreter` runs it.

use libc::{SYS_munmap, SYS_rt_sigreturn};
use ramet_sys::pagemap::PAGE_BYTES;

use crate::interpreter::{self, OPERATION_BYTES};

/// What the memory that has it is called (memfd_create(2)).
pub(crate) const PROGRAM_NAME: &str = "ramet-program";

/// One step. `repr(C)`, because the interpreter is written in assembly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Operation {
    kind: u64,
    number: u64,
    arguments: [u64; 6],
    check: u64,
    expected: u64,
    on_zero: u64,
    store_at: u64,
}

const _: () = assert!(size_of::<Operation>() == OPERATION_BYTES);

/// Where in an operation its arguments are.
const ARGUMENTS_OFFSET: u64 = 16;

/// The return address at the beginning of a frame.
const FRAME_RETURN_BYTES: u64 = 8;

const CALL: u64 = 0;
const FINISH: u64 = 1;
const JUMP: u64 = 2;
const COPY: u64 = 3;

const NO_ERROR: u64 = 1;
const EXACTLY: u64 = 2;

/// The last step of a thread: the memory of the program is given up and the thread goes on where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish {
    /// Where its signal frame is, as rt_sigreturn(2) wants it.
    pub(crate) frame: u64,
    /// Where there is `syscall` and then a return, so that also the interpreter itself can be given up. 0: nowhere.
    pub(crate) call_and_return: u64,
    /// How many bytes are mapped for the program.
    pub(crate) mapped: u64,
    /// Whether they are given up: a filter may not let the thread do so.
    pub(crate) unmaps: bool,
}

/// A program that will lie at a fixed address.
///
/// In memory: the interpreter's page, then data, then operations.
#[derive(Debug)]
pub(crate) struct Program {
    start: u64,
    data: Vec<u8>,
    operations: Vec<Operation>,
    /// What each operation that fails means.
    meanings: Vec<&'static str>,
    /// Where operations go on elsewhere in this program, which is known when all its data is.
    branches: Vec<Branch>,
}

/// A place in a program that operations go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A call that goes on elsewhere if it gives 0, and does not know yet where.
#[derive(Debug)]
#[must_use = "it has to land somewhere"]
pub(crate) struct OnZero(usize);

/// An operation that does not go on with the next one.
#[derive(Clone, Copy, Debug)]
enum Branch {
    /// Always.
    Jump { at: usize, to: Label },
    /// If it gives 0.
    OnZero { at: usize, to: Label },
    /// A copy whose bytes become an argument of another one.
    Argument { at: usize, of: Label, argument: u64 },
}

/// An argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// It is known.
    Word(u64),
    /// It will be the word at an address.
    At(u64),
}

impl Program {
    pub(crate) const fn new(start: u64) -> Self {
        Self { start, data: Vec::new(), operations: Vec::new(), meanings: Vec::new(), branches: Vec::new() }
    }

    /// Where it lies.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Puts bytes beside the operations and says where, at a multiple of 64.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(64), 0);
        let at = self.start + PAGE_BYTES + self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        at
    }

    /// A system call that must not fail.
    pub(crate) fn call(&mut self, meaning: &'static str, number: libc::c_long, arguments: &[u64]) -> &mut Operation {
        let operation = self.push(meaning, CALL, arguments);
        operation.number = number.cast_unsigned();
        operation.check = NO_ERROR;
        operation
    }

    /// The same, with arguments that are only known when it comes to it.
    pub(crate) fn call_with(
        &mut self,
        meaning: &'static str,
        number: libc::c_long,
        arguments: &[Argument],
    ) -> &mut Operation {
        let later = |argument: &&Argument| matches!(argument, Argument::At(_));
        let call = Label(self.operations.len() + arguments.iter().filter(later).count());
        let mut words = [0; 6];
        for (index, argument) in arguments.iter().enumerate() {
            match *argument {
                Argument::Word(word) => words[index] = word,
                Argument::At(address) => {
                    self.branches.push(Branch::Argument {
                        at: self.operations.len(),
                        of: call,
                        argument: index as u64,
                    });
                    self.copy(0, address, size_of::<u64>() as u64);
                }
            }
        }
        self.call(meaning, number, &words)
    }

    /// Copies bytes from one address to another.
    pub(crate) fn copy(&mut self, to: u64, from: u64, bytes: u64) {
        self.push("copy", COPY, &[to, from, bytes]);
    }

    /// Here the next operation will be.
    pub(crate) const fn here(&self) -> Label {
        Label(self.operations.len())
    }

    /// Goes on elsewhere.
    pub(crate) fn jump(&mut self, to: Label) {
        self.branches.push(Branch::Jump { at: self.operations.len(), to });
        self.push("jump", JUMP, &[]);
    }

    /// Lets the last call, which has at most five arguments, go on elsewhere if it gives 0.
    pub(crate) const fn on_zero(&self) -> OnZero {
        OnZero(self.operations.len() - 1)
    }

    /// Says that elsewhere is here.
    pub(crate) fn land(&mut self, call: OnZero) {
        self.branches.push(Branch::OnZero { at: call.0, to: self.here() });
    }

    /// Ends a thread's part. What is mapped of the program goes.
    pub(crate) fn finish(&mut self, finish: Finish) {
        let Finish { frame, call_and_return, mapped, unmaps } = finish;
        if !unmaps {
            // What would be the first of its two calls is the last one.
            self.push("finish", FINISH, &[frame + FRAME_RETURN_BYTES, 0, 0, 0]).number = SYS_rt_sigreturn as u64;
            return;
        }
        // Without a way out of it the interpreter's page stays.
        let stays = if call_and_return == 0 { PAGE_BYTES } else { 0 };
        let arguments = [frame, self.start + stays, mapped - stays, call_and_return];
        self.push("finish", FINISH, &arguments).number = SYS_munmap as u64;
    }

    /// What the operation at an address does.
    pub(crate) fn meaning(&self, address: u64) -> &'static str {
        let index = address.checked_sub(self.operations_start()).map(|bytes| bytes as usize / OPERATION_BYTES);
        index.and_then(|index| self.meanings.get(index)).copied().unwrap_or("a step that it does not have")
    }

    /// Where the interpreter begins to read.
    pub(crate) fn operations_start(&self) -> u64 {
        (self.start + PAGE_BYTES + self.data.len() as u64).next_multiple_of(64)
    }

    /// How long it is, a multiple of a page.
    pub(crate) fn bytes(&self) -> u64 {
        let operations = (self.operations.len() * OPERATION_BYTES) as u64;
        (self.operations_start() - self.start + operations).next_multiple_of(PAGE_BYTES)
    }

    /// The whole program as bytes.
    pub(crate) fn image(&self) -> Vec<u8> {
        let (operations_start, bytes) = (self.operations_start(), self.bytes());
        let mut image = Vec::with_capacity(bytes as usize);
        image.extend_from_slice(interpreter::code());
        image.resize(PAGE_BYTES as usize, 0);
        image.extend_from_slice(&self.data);
        image.resize((operations_start - self.start) as usize, 0);
        let address = |label: Label| operations_start + (label.0 * OPERATION_BYTES) as u64;
        let mut operations = self.operations.clone();
        for branch in &self.branches {
            match *branch {
                Branch::Jump { at, to } => operations[at].arguments[0] = address(to),
                Branch::Argument { at, of, argument } => {
                    operations[at].arguments[0] = address(of) + ARGUMENTS_OFFSET + argument * size_of::<u64>() as u64;
                }
                Branch::OnZero { at, to } => {
                    operations[at].on_zero = address(to);
                    operations[at].arguments[5] = self.start;
                }
            }
        }
        for Operation { kind, number, arguments, check, expected, on_zero, store_at } in operations {
            let words = [kind, number].into_iter().chain(arguments).chain([check, expected, on_zero, store_at]);
            image.extend(words.flat_map(u64::to_ne_bytes));
        }
        image.resize(bytes as usize, 0);
        image
    }

    fn push(&mut self, meaning: &'static str, kind: u64, arguments: &[u64]) -> &mut Operation {
        let mut operation = Operation { kind, ..Operation::default() };
        operation.arguments[..arguments.len()].copy_from_slice(arguments);
        self.meanings.push(meaning);
        self.operations.push(operation);
        let last = self.operations.len() - 1;
        &mut self.operations[last]
    }
}

impl Operation {
    /// It may fail.
    pub(crate) const fn or_not(&mut self) {
        self.check = 0;
    }

    /// It must have this result.
    pub(crate) const fn gives(&mut self, result: u64) {
        self.check = EXACTLY;
        self.expected = result;
    }

    /// Where it gives 0, which it does in a new thread, another program follows.
    pub(crate) fn begins(&mut self, program: &Program) {
        self.on_zero = program.operations_start();
        self.arguments[5] = program.start();
    }

    /// Its result is written to an address, eight bytes.
    pub(crate) const fn stored_at(&mut self, address: u64) {
        self.store_at = address;
    }
}
