package image

import "strings"

// shape is what a path below /v2/ is in the OCI distribution API.
type shape int

const (
	notOCI shape = iota
	ping
	catalog
	manifests
	blobs
	uploads // begin an upload
	upload  // go on with one
	tags
	referrers
)

// parsePath tells which shape a path has and which repository and last part it
// names. The shape alone decides who answers: a path of an OCI shape with a bad
// name or digest is answered by the registry too, and all other paths below
// /v2/ are somebody else's.
func parsePath(path string) (s shape, repo, last string) {
	if path == "/v2" || path == "/v2/" {
		return ping, "", ""
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return notOCI, "", ""
	}
	if rest == "_catalog" {
		return catalog, "", ""
	}
	for _, end := range []string{"/blobs/uploads", "/blobs/uploads/"} {
		if repo, ok := strings.CutSuffix(rest, end); ok && repo != "" {
			return uploads, repo, ""
		}
	}
	rest, last, ok = cutLast(rest)
	if !ok {
		return notOCI, "", ""
	}
	repo, kind, ok := cutLast(rest)
	if !ok || repo == "" {
		return notOCI, "", ""
	}
	switch kind {
	case "manifests":
		return manifests, repo, last
	case "blobs":
		return blobs, repo, last
	case "referrers":
		return referrers, repo, last
	case "tags":
		if last == "list" {
			return tags, repo, ""
		}
	case "uploads":
		if repo, ok := strings.CutSuffix(repo, "/blobs"); ok && repo != "" {
			return upload, repo, last
		}
	}
	return notOCI, "", ""
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}
