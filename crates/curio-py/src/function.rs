//! Functions that Python sees as coroutine functions, and that run in Rust.
//!
//! The signature, the documentation and the name of such a function are written in
//! Python, as an `async def` without a body that `operation` decorates; what it does is
//! Rust. So `help`, `inspect.signature` and `inspect.iscoroutinefunction` see what
//! they would see of a function written in Python (the last one looks at `__code__`), while a
//! call goes straight from the interpreter's vectorcall to [`Implementation`].

use std::os::raw::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::object::{Object, Outcome, panicked};
use crate::op::{make_type, slot};

/// What a call does: it is given one argument for each parameter of the signature, defaults
/// filled in. The arguments after `*args`, if the signature has that, are a tuple in its place.
pub(crate) type Implementation = fn(Python<'_>, &Call<'_>) -> Outcome;

/// A call of a function.
pub(crate) struct Call<'a> {
    pub(crate) function: *mut FunctionObject,
    arguments: &'a [*mut ffi::PyObject],
}

impl Call<'_> {
    /// An argument, borrowed for the call.
    pub(crate) fn ptr(&self, index: usize) -> *mut ffi::PyObject {
        self.arguments[index]
    }

    /// How many there are, the object of a method included.
    pub(crate) fn count(&self) -> usize {
        self.arguments.len()
    }

    pub(crate) fn object(&self, index: usize) -> Object {
        // SAFETY: the caller of the function keeps its arguments alive during the call.
        unsafe { Object::borrowed(self.arguments[index]) }
    }

    pub(crate) fn get<'py>(&self, py: Python<'py>, index: usize) -> Bound<'py, PyAny> {
        // SAFETY: as above.
        unsafe { Bound::from_borrowed_ptr(py, self.arguments[index]) }
    }

    pub(crate) fn is_none(&self, index: usize) -> bool {
        // SAFETY: `None` is a singleton; only pointers are compared.
        self.arguments[index] == unsafe { ffi::Py_None() }
    }
}

/// The parameters of a signature, in order: positional, `*args`, keyword-only.
struct Signature {
    /// Interned names.
    names: Vec<Object>,
    /// `None`: the parameter is required.
    defaults: Vec<Option<Object>>,
    positional: usize,
    /// The place of `*args`.
    varargs: Option<usize>,
}

#[repr(C)]
pub(crate) struct FunctionObject {
    base: ffi::PyObject,
    vectorcall: ffi::vectorcallfunc,
    implementation: Implementation,
    signature: Box<Signature>,
    /// The Python function that was decorated.
    stub: Object,
}

static TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

impl FunctionObject {
    fn text(&self, py: Python<'_>, attribute: &str) -> String {
        let text = self.stub.bind(py).getattr(attribute).and_then(|name| name.extract());
        text.unwrap_or_else(|_| "operation".into())
    }

    pub(crate) fn name(&self, py: Python<'_>) -> String {
        self.text(py, "__name__")
    }

    pub(crate) fn qualname(&self, py: Python<'_>) -> String {
        self.text(py, "__qualname__")
    }
}

/// Makes the function of `implementation` that looks like `stub`.
pub(crate) fn new(stub: &Bound<'_, PyAny>, implementation: Implementation) -> PyResult<Py<PyAny>> {
    let py = stub.py();
    let signature = Box::new(Signature::of(stub)?);
    let class = TYPE.load(Relaxed);
    // SAFETY: the type was made by `init`; the allocator gives memory for its basic size.
    let function = unsafe { ffi::PyType_GenericAlloc(class, 0) }.cast::<FunctionObject>();
    if function.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: each field behind the base is uninitialised (zeroed) and written once; then the
    // new reference is handed over.
    unsafe {
        ptr::addr_of_mut!((*function).vectorcall).write(vectorcall);
        ptr::addr_of_mut!((*function).implementation).write(implementation);
        ptr::addr_of_mut!((*function).signature).write(signature);
        ptr::addr_of_mut!((*function).stub).write(Object::from(stub.clone()));
        Ok(Bound::from_owned_ptr(py, function.cast()).unbind())
    }
}

impl Signature {
    fn of(stub: &Bound<'_, PyAny>) -> PyResult<Signature> {
        let code = stub.getattr("__code__")?;
        let positional: usize = code.getattr("co_argcount")?.extract()?;
        let keywords: usize = code.getattr("co_kwonlyargcount")?.extract()?;
        let flags: u32 = code.getattr("co_flags")?.extract()?;
        const CO_VARARGS: u32 = 4;
        const CO_VARKEYWORDS: u32 = 8;
        if flags & CO_VARKEYWORDS != 0 {
            return Err(PyValueError::new_err("an operation cannot take **kwargs"));
        }
        let all: Vec<Bound<'_, PyAny>> = code.getattr("co_varnames")?.extract()?;
        let mut defaults: Vec<Option<Object>> = vec![None; positional + keywords];
        if let Ok(given) = stub.getattr("__defaults__")?.cast_into::<PyTuple>() {
            for (place, value) in (positional - given.len()..).zip(given) {
                defaults[place] = Some(value.into());
            }
        }
        if let Ok(given) = stub.getattr("__kwdefaults__")?.cast_into::<PyDict>() {
            for (place, name) in (positional..).zip(&all[positional..positional + keywords]) {
                defaults[place] = given.get_item(name)?.map(Into::into);
            }
        }
        let mut names: Vec<Object> =
            all[..positional + keywords].iter().map(|name| name.clone().into()).collect();
        let varargs = (flags & CO_VARARGS != 0).then_some(positional);
        if let Some(place) = varargs {
            names.insert(place, all[positional + keywords].clone().into());
            defaults.insert(place, Some(PyTuple::empty(stub.py()).into_any().into()));
        }
        Ok(Signature { names, defaults, positional, varargs })
    }

    /// Fills `flat`, one place for each parameter; `None` if the call does not fit.
    fn bind(
        &self,
        py: Python<'_>,
        given: &[*mut ffi::PyObject],
        keywords: &[(*mut ffi::PyObject, *mut ffi::PyObject)],
        flat: &mut [*mut ffi::PyObject],
    ) -> Option<Option<Object>> {
        let (given, rest) = given.split_at(given.len().min(self.positional));
        flat[..given.len()].copy_from_slice(given);
        let mut gathered = None;
        if !rest.is_empty() {
            let place = self.varargs?;
            // SAFETY: the rest are arguments of the call, alive during it.
            let rest = rest.iter().map(|&object| unsafe { Bound::from_borrowed_ptr(py, object) });
            let rest: Vec<_> = rest.collect();
            let tuple = Object::from(PyTuple::new(py, rest).ok()?.into_any());
            flat[place] = tuple.as_ptr();
            gathered = Some(tuple);
        }
        for &(keyword, value) in keywords {
            let place = self.names.iter().position(|name| {
                // SAFETY: both are live strings; the comparison is of strings and cannot fail.
                name.as_ptr() == keyword
                    || unsafe { ffi::PyUnicode_Compare(name.as_ptr(), keyword) } == 0
            })?;
            if !flat[place].is_null() || Some(place) == self.varargs {
                return None;
            }
            flat[place] = value;
        }
        for (place, default) in flat.iter_mut().zip(&self.defaults) {
            if place.is_null() {
                *place = default.as_ref()?.as_ptr();
            }
        }
        Some(gathered)
    }
}

/// More parameters than any operation has.
const MOST: usize = 12;

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn vectorcall(
    function: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls it with a live function of ours, attached; `args` holds as
    // many live objects as `nargsf` and `names` say.
    let (py, this, given) = unsafe {
        let count = ffi::PyVectorcall_NARGS(nargsf) as usize;
        let given = if count == 0 { &[][..] } else { std::slice::from_raw_parts(args, count) };
        (Python::assume_attached(), &*function.cast::<FunctionObject>(), given)
    };
    let signature = &*this.signature;
    let called = catch_unwind(AssertUnwindSafe(|| {
        if names.is_null() && given.len() == signature.names.len() && signature.varargs.is_none() {
            let call = Call { function: function.cast(), arguments: given };
            return (this.implementation)(py, &call);
        }
        // SAFETY: `names` is null or a tuple, and that many values follow the given arguments.
        let keywords = unsafe { keywords(args, given.len(), names) };
        let mut flat = [ptr::null_mut(); MOST];
        let flat = &mut flat[..signature.names.len()];
        match signature.bind(py, given, &keywords, flat) {
            Some(_gathered) => {
                let call = Call { function: function.cast(), arguments: flat };
                (this.implementation)(py, &call)
            }
            // SAFETY: the call is handed on as it came.
            None => Err(unsafe { misfit(py, this, args, nargsf, names) }.into()),
        }
    }));
    let called = called.unwrap_or_else(|panic| Err(panicked(&*panic)));
    called.map_or(ptr::null_mut(), Object::into_ptr)
}

unsafe fn keywords(
    args: *const *mut ffi::PyObject,
    given: usize,
    names: *mut ffi::PyObject,
) -> Vec<(*mut ffi::PyObject, *mut ffi::PyObject)> {
    if names.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller has a tuple of names, whose values follow the given arguments.
    unsafe {
        let count = ffi::PyTuple_GET_SIZE(names);
        (0..count)
            .map(|i| (ffi::PyTuple_GET_ITEM(names, i), *args.add(given + i as usize)))
            .collect()
    }
}

/// The error of a call that does not fit the signature: the one that the stub raises.
unsafe fn misfit(
    py: Python<'_>,
    this: &FunctionObject,
    args: *const *mut ffi::PyObject,
    nargsf: usize,
    names: *mut ffi::PyObject,
) -> PyErr {
    let count = nargsf & !ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the arguments are those of the call that we are in.
    let result = unsafe { ffi::PyObject_Vectorcall(this.stub.as_ptr(), args, count, names) };
    if result.is_null() {
        return PyErr::fetch(py);
    }
    // SAFETY: not null, so a new reference.
    drop(unsafe { Object::owned(result) });
    PyTypeError::new_err(format!("{}(): the arguments do not fit", this.name(py)))
}

unsafe extern "C" {
    fn PyMethod_New(function: *mut ffi::PyObject, object: *mut ffi::PyObject)
    -> *mut ffi::PyObject;
}

unsafe extern "C" fn descr_get(
    function: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls the slot with live objects; `object` may be null.
    unsafe {
        if object.is_null() || object == ffi::Py_None() {
            return Object::borrowed(function).into_ptr();
        }
        PyMethod_New(function, object)
    }
}

/// What the function does not have itself, it has from its stub: name, code, documentation.
unsafe extern "C" fn getattro(
    function: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with live objects, attached.
    unsafe {
        let stub = &(*function.cast::<FunctionObject>()).stub;
        let value = ffi::PyObject_GetAttr(stub.as_ptr(), name);
        if !value.is_null() || ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) == 0 {
            return value;
        }
        ffi::PyErr_Clear();
        ffi::PyObject_GenericGetAttr(function, name)
    }
}

/// For who looks past `getattro`, as `help` does.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn get_doc(function: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live function, attached.
    unsafe {
        let stub = &(*function.cast::<FunctionObject>()).stub;
        ffi::PyObject_GetAttrString(stub.as_ptr(), c"__doc__".as_ptr())
    }
}

unsafe extern "C" fn repr(function: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with a live function, attached.
    unsafe {
        let py = Python::assume_attached();
        let name = (*function.cast::<FunctionObject>()).qualname(py);
        let text = format!("<curio operation {name}>");
        text.into_pyobject(py).map_or(ptr::null_mut(), |text| text.into_any().into_ptr())
    }
}

unsafe extern "C" fn dealloc(function: *mut ffi::PyObject) {
    // SAFETY: the last reference has gone: the fields are given up once, then the memory.
    unsafe {
        let class = ffi::Py_TYPE(function);
        let this = function.cast::<FunctionObject>();
        ptr::drop_in_place(ptr::addr_of_mut!((*this).signature));
        ptr::drop_in_place(ptr::addr_of_mut!((*this).stub));
        ffi::PyObject_Free(function.cast());
        ffi::Py_DECREF(class.cast());
    }
}

/// Makes the type.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let members = Box::leak(Box::new([
        ffi::PyMemberDef {
            name: c"__vectorcalloffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(FunctionObject, vectorcall) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        },
        // SAFETY: the sentinel at the end of a table of members is all zero.
        unsafe { std::mem::zeroed() },
    ]));
    let getters = Box::leak(Box::new([
        ffi::PyGetSetDef {
            name: c"__doc__".as_ptr(),
            get: Some(get_doc),
            set: None,
            doc: ptr::null(),
            closure: ptr::null_mut(),
        },
        // SAFETY: the sentinel at the end of a table of getters is all zero.
        unsafe { std::mem::zeroed() },
    ]));
    let mut slots = [
        slot(ffi::Py_tp_getset, getters.as_mut_ptr().cast()),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, descr_get as *mut c_void),
        slot(ffi::Py_tp_getattro, getattro as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        slot(0, ptr::null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
        | ffi::Py_TPFLAGS_IMMUTABLETYPE
        | ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
    // SAFETY: the tables in the slots are as CPython wants them, and live for ever.
    let class = unsafe {
        make_type(
            py,
            c"curio._curio.operation_function",
            size_of::<FunctionObject>(),
            0,
            flags,
            &mut slots,
        )
    }?;
    TYPE.store(class.cast(), Relaxed);
    Ok(())
}

/// Whether `object` is a function of ours.
pub(crate) fn is_function(object: *mut ffi::PyObject) -> bool {
    // SAFETY: a live object has a type.
    unsafe { ffi::Py_TYPE(object) == TYPE.load(Relaxed) }
}
