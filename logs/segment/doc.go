// Package segment is the format of every log: how frames are written, masked,
// put into segments and parsed again. The monitors use it too, so it knows the
// standard library only.
//
// A log is a directory of segments 000000.log, 000001.log, ... of which the
// last one is written. A segment is a sequence of frames, one a line:
//
//	TTTTTTTTTTTTTTTT S BYTES\n
//
// T: 16 digits, microseconds since 1970. S: the stream, o stdout, e stderr, m a
// note of ours; a capital letter when the line is not complete, so that the
// next frame of that stream goes on with it. BYTES: any but the line end. After
// any line end a reader is in step again. The first frame of a segment is the
// note "segment K line L", L being how many whole lines came before it; it is
// no line itself. No line goes over the end of a segment, and none is longer
// than MaxLine: a longer one is broken.
//
// A segment that is closed (its mode is ModeClosed) is never written again. Whoever
// holds the lock of the directory may close one; its writer then begins the
// next. A closed segment may be replaced by NNNNNN.log.zst: a skippable zstd
// frame that holds the first frame of the segment and a line
// "end L size N" (the whole lines before its end, its bytes), so that both are
// known without unpacking, and then the segment as zstd.
package segment
