// The Python module `_ironcliw_native`: interface number, levels, and registration on request.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <memory>

#include "bind/bind.h"
#include "cpu_level.h"

namespace {

// Raised whenever a schema, a packed layout or the meaning of an argument changes; the Python side
// (native_ops/binary.py) uses a binary with its own number only.
//   1  as released with 0.3.0
//   2  no `residual` of encoder_linear, no `bias` of packed_attention; two planes of an activation that
//      meets weights of 4 bits have 12 bits instead of 16; a scale of NaN in packed int8 weights says
//      that one of them was not finite
//   3  adapters of decoder_step; add_rms_norm, swiglu and rotary_attention, with their backward
//      operators
//   4  adapters of encoder_forward
constexpr long kInterface = 4;

PyObject* interface_number(PyObject*, PyObject*) { return PyLong_FromLong(kInterface); }

PyObject* register_operators(PyObject*, PyObject*) {
  static std::unique_ptr<ironcliw::Implementations> library;
  if (!library) {
    library = std::make_unique<ironcliw::Implementations>(ironcliw::Implementations::Kind::IMPL, "ironcliw", "CPU", __FILE__, __LINE__);
    for (const auto add : ironcliw::Binding::all()) add(*library);
  }
  Py_RETURN_NONE;
}

PyObject* levels(PyObject*, PyObject*) {
  const auto here = ironcliw::levels_here();
  PyObject* list = PyList_New(0);
  for (const auto level : here) {
    PyObject* name = PyUnicode_FromString(ironcliw::name_of(level));
    if (!list || !name || PyList_Append(list, name) < 0) {
      Py_XDECREF(name);
      Py_XDECREF(list);
      return nullptr;
    }
    Py_DECREF(name);
  }
  return list;
}

PyObject* level(PyObject*, PyObject*) { return PyUnicode_FromString(ironcliw::name_of(ironcliw::level())); }

PyObject* choose_level(PyObject*, PyObject* argument) {
  Py_ssize_t size = 0;
  const char* name = PyUnicode_AsUTF8AndSize(argument, &size);
  if (!name) return nullptr;
  return PyBool_FromLong(ironcliw::choose_level(std::string(name, static_cast<size_t>(size))));
}

PyMethodDef methods[] = {
    {"interface", interface_number, METH_NOARGS, "Number of the interface that this binary was built for."},
    {"register_operators", register_operators, METH_NOARGS, "Implement torch.ops.ironcliw.* on the CPU."},
    {"levels", levels, METH_NOARGS, "Names of the levels that this processor can use, lowest first."},
    {"level", level, METH_NOARGS, "Name of the level in use."},
    {"choose_level", choose_level, METH_O, "Use a level by name ('' for the highest); False where it is not here."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ironcliw_native", "C++ kernels of Ironcliw.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__ironcliw_native(void) { return PyModule_Create(&module); }
