# The standard streams, and what is read and written.
import sys
for stream in sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__:
    if stream is None:
        print(stream)
        continue
    print(stream, type(stream), stream.encoding, stream.errors, stream.line_buffering, stream.write_through,
          stream.newlines, stream.mode, stream.name, stream.isatty(), stream.fileno())
    print(type(stream.buffer), stream.buffer.name, stream.buffer.raw, stream.buffer.raw.closefd, stream.buffer.mode)
print(sys.stdin is sys.__stdin__)
if sys.stdin is not None:
    print(repr(sys.stdin.readline()), repr(input("? ")), repr(sys.stdin.read()))
if sys.stderr is not None:
    sys.stderr.write("an error \udc80\n")
