package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"slipway/project"
)

// maxNumber keeps sums and products of what is asked for in a query in range.
const maxNumber = 1<<31 - 1

// Number reads a query parameter that is a whole number of at least least; def
// is its value when it is absent. What is larger than any list is made less.
func Number(r *http.Request, name string, def, least int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) && s[0] != '-' {
		n, err = maxNumber, nil
	}
	if err != nil {
		return 0, &project.Invalid{Fields: []project.Field{{Path: name, Kind: "type", Message: "must be a whole number"}}}
	}
	if n < least {
		return 0, &project.Invalid{Fields: []project.Field{{Path: name, Kind: "minimum", Message: fmt.Sprintf("must be at least %d", least)}}}
	}
	return min(n, maxNumber), nil
}

// Slice is the part of a list from skip on, limit long at most; limit 0 is no
// limit.
func Slice[T any](l []T, skip, limit int) []T {
	skip = min(max(skip, 0), len(l))
	l = l[skip:]
	if limit > 0 && len(l) > limit {
		l = l[:limit]
	}
	return l
}

// Pages is how many pages of a size a number of elements fills.
func Pages(total, size int) int {
	if size <= 0 {
		return 1
	}
	return (total + size - 1) / size
}
