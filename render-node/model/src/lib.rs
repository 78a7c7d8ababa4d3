//! Model folders and adapter files as data: configs, tensor inventories, file gates. No libtorch.
