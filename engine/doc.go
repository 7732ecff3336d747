// Package engine is the seam between what Slipway promises (pipelines,
// stacks) and the machinery that does it. It holds the specs, the interfaces
// and the words of the contract; it does nothing itself and imports nothing of
// ours. engine/local does it with containerd's stores, BuildKit and runc on
// this machine, engine/fake in memory, and enginetest holds all of them to the
// same words.
//
// The contract:
//
//   - Every call is safe to repeat with the same id. Run(id) starts the
//     container, or attaches to the one that runs, or gives the result of the one
//     that ended. A restart of the server is then an ordinary second call.
//     Build(id) may do the work again; the cache makes that cheap.
//   - A non-zero exit, a program that is not in the image, a Dockerfile that does
//     not build: these are results. An error means that the machinery failed.
//   - Cancelling has a cause. When context.Cause is ErrDetach the server is going
//     away: the call returns at once and what it started goes on. Any other cause
//     ends what was started, waits until it is gone, and returns.
//   - Everything carries its owner. What has no living owner is found by Owners
//     and taken away by Remove; there is no second clean-up path.
//   - Images are handed over by digest in one store. Nothing is packed, pushed or
//     pulled between a build and a run of its result.
//   - Secrets come in specs, at the moment of the call. An engine writes them to
//     no lasting disk, no argument list and no log.
//   - A call has ended only when its log is durable.
//
// What an engine cannot do it lacks as an optional interface (Execer, Stater,
// Snapshotter, Cacher, Directories, Networks), asked for by type assertion.
package engine
