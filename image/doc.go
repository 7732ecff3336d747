// Package image is the registry: repositories of a workspace, their tags, the
// OCI distribution API over them, and where any image reference leads to.
//
// The bytes are in the engine's store; here are the names and the rights:
//
//	repositories -- manifests -- links (blobs and manifests that they need)
//	      |            |
//	      |           tags
//	      +-- blobs (uploaded or mounted, not linked yet), uploads
//	outside: names of other registries, for the workspace that pulled or loaded them
//	holds:   what the engine has to keep for all of these, and for other rooms
//
// A blob is served in a repository only if it was uploaded or mounted there, or
// if a manifest of it refers to it: to know a digest is no right to its content.
//
// # Holds
//
// Each manifest, outside name and Keep has a row in image_holds, written in the
// transaction that needs it, and one hold in the engine under the same id:
//
//	          hold made beforehand
//	     +----------------------------> held --+---- until over, Drop, row gone --> dropped --> (none)
//	(none)                               ^     |
//	     +--> wanted --reconciler-->-----+     +---- content is gone --> lost
//
// Where we can, the hold is made before the row commits; a kill in between
// leaves a hold without a row. In a transaction of somebody else the row is
// committed first as wanted and the reconciler, woken by that commit, makes the
// hold. The full look at start and every few minutes compares both sides, so a
// kill at any place leaks nothing for ever.
package image
