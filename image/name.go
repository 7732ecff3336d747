package image

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"slipway/project"
)

// Bounds of names, as registries have them.
const (
	maxReference = 600
	maxRepoName  = 255
)

// Normalize completes a reference as a source: "nginx" becomes
// "docker.io/library/nginx:latest". One with a digest loses its tag: the digest
// alone says what is meant. Bad ones are a *project.Invalid with an empty path.
func Normalize(ref string) (string, error) {
	n, err := parse(ref)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

func parse(ref string) (reference.Named, error) {
	if ref == "" {
		return nil, invalid("required", "an image reference is needed, as in nginx:1.29")
	}
	if len(ref) > maxReference {
		return nil, invalid("maximum", fmt.Sprintf("an image reference has at most %d bytes", maxReference))
	}
	n, err := reference.ParseNormalizedNamed(ref)
	switch {
	case err != nil && lowerFits(ref):
		return nil, invalid("format", fmt.Sprintf("%q: the name of an image is in lower case", ref))
	case err != nil:
		return nil, invalid("format", fmt.Sprintf("%q is no image reference: it has the form [host[:port]/]name[:tag][@digest]", ref))
	case len(reference.Path(n)) > maxRepoName:
		return nil, invalid("maximum", fmt.Sprintf("the name of an image has at most %d bytes", maxRepoName))
	}
	if d, ok := n.(reference.Digested); ok {
		return reference.WithDigest(reference.TrimNamed(n), d.Digest())
	}
	return reference.TagNameOnly(n), nil
}

// lowerFits tells whether upper-case letters are all that is wrong.
func lowerFits(ref string) bool {
	_, err := reference.ParseNormalizedNamed(strings.ToLower(ref))
	return err == nil
}

func invalid(kind, message string) error {
	bad := &project.Invalid{}
	bad.Add("", kind, message)
	return bad
}

// Own takes a reference apart if it means the own registry: host is one of
// ours. name is without host and tag ("<workspace>/<name>"); tag is "latest" if
// the reference has neither tag nor digest.
func (i *Images) Own(ref string) (name, tag, digest string, own bool) {
	n, err := parse(ref)
	if err != nil || !i.hosts[strings.ToLower(reference.Domain(n))] {
		return "", "", "", false
	}
	return split(n)
}

func split(n reference.Named) (name, tag, digest string, own bool) {
	if t, ok := n.(reference.Tagged); ok {
		tag = t.Tag()
	}
	if d, ok := n.(reference.Digested); ok {
		digest = d.Digest().String()
	}
	return reference.Path(n), tag, digest, true
}

// target reads a name of the own registry, with or without its host:
// "<workspace>/<name>[:<tag>]".
func (i *Images) target(s string) (name, tag string, err error) {
	if name, tag, digest, own := i.Own(s); own {
		if digest != "" {
			return "", "", invalid("format", fmt.Sprintf("%q: a digest cannot be tagged", s))
		}
		return name, tag, nil
	}
	n, err := parse("slipway.local/" + s)
	if err != nil {
		return "", "", invalid("format", fmt.Sprintf("%q is no name of this registry: it has the form <workspace>/<name>:<tag>", s))
	}
	name, tag, digest, _ := split(n)
	if digest != "" {
		return "", "", invalid("format", fmt.Sprintf("%q: a digest cannot be tagged", s))
	}
	return name, tag, nil
}

// CheckTarget tells whether a name can be tagged, by Tag or TagIn: a bad one is
// a *project.Invalid.
func (i *Images) CheckTarget(name string) error {
	_, _, err := i.target(name)
	return err
}

// domainOf is the workspace part of a name; ok is false if there is no other
// part.
func domainOf(name string) (domain string, ok bool) {
	domain, rest, ok := strings.Cut(name, "/")
	return domain, ok && rest != ""
}
