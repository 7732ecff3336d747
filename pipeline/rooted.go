package pipeline

import (
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"

	"slipway/project"
)

// rooted gives a path in the file system of a pipeline as one that begins at its
// root. One that leads out of it is refused.
func rooted(p string) (string, error) {
	depth := 0
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return "", fmt.Errorf("%q leads out of the file system", p)
			}
		default:
			depth++
		}
	}
	return path.Clean("/" + p), nil
}

// literal tells whether a text is what it says: what variables make of another one is
// seen when it is used.
func literal(text string) bool { return !strings.Contains(text, "$") }

// paths notes those that lead out of the file system; they are given as name, path.
func paths(inv *project.Invalid, all ...string) {
	for i := 0; i < len(all); i += 2 {
		if _, err := rooted(all[i+1]); err != nil && literal(all[i+1]) {
			inv.Add(all[i], "format", err.Error())
		}
	}
}

// repositoryFile notes a path that is of no file of a commit.
func repositoryFile(inv *project.Invalid, at, p string) {
	clean, err := rooted(p)
	if err != nil || clean == "/.git" || strings.HasPrefix(clean, "/.git/") {
		inv.Add(at, "format", fmt.Sprintf("%q is not a path inside the repository", p))
	}
}

// tags notes those that no image can have, of a list that commas part; a digest is
// one, too, if it may be.
func tags(inv *project.Invalid, at, list string, digest bool) {
	for _, tag := range commaList(list) {
		if literal(tag) && !wholeTag(tag) && !(digest && strings.HasPrefix(tag, "sha256:")) {
			inv.Add(at, "format", fmt.Sprintf("%q is no tag: a tag has letters, digits, _, . and -, at most 128, and begins with none of the last two", tag))
		}
	}
}

func wholeTag(tag string) bool {
	at := reference.TagRegexp.FindStringIndex(tag)
	return at != nil && at[0] == 0 && at[1] == len(tag)
}

// name notes one that no image can have.
func name(inv *project.Invalid, at, image string) {
	if literal(image) && (strings.HasPrefix(image, "-") || strings.ContainsAny(image, " \t\r\n")) {
		inv.Add(at, "format", fmt.Sprintf("%q is no name of an image", image))
	}
}

// kernels are the folders of a container that are the kernel's.
var kernels = []string{"/proc", "/sys", "/dev"}

// ofKernel tells whether a path of a container is in one of the kernel's folders.
func ofKernel(p string) bool {
	for _, k := range kernels {
		if p == k || strings.HasPrefix(p, k+"/") {
			return true
		}
	}
	return false
}
