# The vendored .proto files and the code made from them are what the generator makes.
exec sh protos/generator/check.sh
