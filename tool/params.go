package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/jsonschema-go/jsonschema"
)

// MaxParams is the most bytes that the params of a call may have.
const MaxParams = 1 << 20

// maxDepth bounds the nesting of params that a schema is held against.
const maxDepth = 128

var (
	errNoObject = errors.New("not a JSON object")
	errTwice    = errors.New("a property is given twice")
	errDepth    = fmt.Errorf("nested more than %d levels deep", maxDepth)
	errNumber   = errors.New("a number is out of range")
)

// paramsCheck holds params against a schema. Its errors hold nothing of the params, only of the
// schema.
type paramsCheck struct {
	schema *jsonschema.Resolved // nil accepts any object
	names  *declared
}

func newParamsCheck(s *jsonschema.Schema) (*paramsCheck, error) {
	if s == nil {
		return &paramsCheck{}, nil
	}
	if s.Type != "" && s.Type != "object" {
		return nil, fmt.Errorf("type is %q where params are always an object", s.Type)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkVersion(s.Schema), checkRecursion(s)); err != nil {
		return nil, err
	}
	return &paramsCheck{resolved, declaredBy(s)}, nil
}

// checkVersion asks the library, which otherwise says no only when it validates.
func checkVersion(version string) error {
	resolved, err := (&jsonschema.Schema{Schema: version}).Resolve(nil)
	if err != nil {
		return err
	}
	return resolved.Validate(map[string]any{})
}

// check reports whether params may go to the tool.
func (c *paramsCheck) check(params []byte) error {
	if len(params) > MaxParams {
		return fmt.Errorf("%d bytes where at most %d are allowed", len(params), MaxParams)
	}
	if !isObject(params) {
		return errNoObject
	}
	if c.schema == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(params))
	d.UseNumber()
	value, err := decode(d, c.names, 0)
	if err != nil {
		return err
	}
	return describeMismatch(c.schema.Validate(value))
}

func isObject(params []byte) bool {
	start := bytes.TrimLeft(params, " \t\r\n")
	return len(start) > 0 && start[0] == '{' && json.Valid(params)
}

// declared are the property names of a schema, level by level. The tools are written in Go, whose
// decoder takes "PATH" for a field "path"; a schema that speaks of "path" alone would not see it. So
// check refuses names that differ from declared ones only in case.
type declared struct {
	exact  map[string]*declared
	folded map[string]string // from the folded to the exact name
	items  *declared
}

func declaredBy(s *jsonschema.Schema) *declared {
	if s == nil {
		return nil
	}
	d := &declared{exact: map[string]*declared{}, folded: map[string]string{}, items: declaredBy(s.Items)}
	for name, property := range s.Properties {
		d.exact[name] = declaredBy(property)
		d.folded[fold(name)] = name
	}
	return d
}

func (d *declared) check(name string) error {
	if d == nil {
		return nil
	}
	_, ok := d.exact[name]
	if like, alike := d.folded[fold(name)]; alike && !ok {
		return fmt.Errorf("a property's name differs from %q only in case", like)
	}
	return nil
}

func (d *declared) property(name string) *declared {
	if d == nil {
		return nil
	}
	return d.exact[name]
}

func (d *declared) item() *declared {
	if d == nil {
		return nil
	}
	return d.items
}

// fold maps names that encoding/json takes for the same one to the same text.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}

// decode reads one value of valid JSON the way that jsonschema wants it, and refuses what two decoders
// may read differently.
func decode(d *json.Decoder, names *declared, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errNoObject
	}
	switch token := token.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, errDepth
		}
		if token == '{' {
			return decodeObject(d, names, depth)
		}
		return decodeArray(d, names, depth)
	case json.Number:
		return decodeNumber(token)
	default:
		return token, nil
	}
}

func decodeObject(d *json.Decoder, names *declared, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNoObject
		}
		if _, twice := object[name]; twice {
			return nil, errTwice
		}
		if err := names.check(name); err != nil {
			return nil, err
		}
		if object[name], err = decode(d, names.property(name), depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

func decodeArray(d *json.Decoder, names *declared, depth int) (any, error) {
	array := []any{}
	for d.More() {
		item, err := decode(d, names.item(), depth+1)
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	_, err := d.Token()
	return array, err
}

func decodeNumber(n json.Number) (any, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, errNumber
	}
	return f, nil
}

// keywords that may begin the text of a mismatch.
var keywords = strings.Fields(`type enum const multipleOf minimum maximum exclusiveMinimum
	exclusiveMaximum minLength maxLength pattern anyOf oneOf not contains minContains maxContains
	minItems maxItems uniqueItems minProperties maxProperties required`)

// describeMismatch says where in the schema the params do not match, and by which keyword. The text of
// the library's error is of no use here, since it quotes the params.
func describeMismatch(err error) error {
	if err == nil {
		return nil
	}
	place := "root"
	for inner := errors.Unwrap(err); inner != nil; err, inner = inner, errors.Unwrap(inner) {
		place = strings.TrimPrefix(strings.TrimSuffix(err.Error(), ": "+inner.Error()), "validating ")
	}
	keyword, rest, _ := strings.Cut(err.Error(), ": ")
	switch {
	case keyword == "required":
		return fmt.Errorf("do not match the schema at %s: required: %s", place, rest)
	case strings.HasPrefix(keyword, "unexpected additional properties"):
		return fmt.Errorf("do not match the schema at %s: additionalProperties", place)
	case slices.Contains(keywords, keyword):
		return fmt.Errorf("do not match the schema at %s: %s", place, keyword)
	default:
		return fmt.Errorf("do not match the schema at %s", place)
	}
}
