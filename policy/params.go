package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxParams is the most bytes of params that a policy looks at.
const MaxParams = 1 << 20

var (
	errUTF8   = errors.New("they are not UTF-8")
	errObject = errors.New("they are not a JSON object")
	errTwice  = errors.New("a property is given twice")
	errCase   = errors.New("two properties differ only in case, and some readers take them for one")
	errDepth  = fmt.Errorf("they are nested more than %d levels deep", MaxDepth)
	errNumber = errors.New("a number is out of range")
)

// decodeParams reads params as conditions see them. It refuses what another reader could understand in
// another way than this one: the tool is to get what was decided on.
func decodeParams(params []byte) (map[string]any, error) {
	switch {
	case len(params) == 0:
		return map[string]any{}, nil
	case len(params) > MaxParams:
		return nil, fmt.Errorf("they have %d bytes where at most %d are allowed", len(params), MaxParams)
	case !utf8.Valid(params):
		return nil, errUTF8
	case !json.Valid(params):
		return nil, errObject
	}
	d := json.NewDecoder(bytes.NewReader(params))
	d.UseNumber()
	value, err := decode(d, 0)
	if err != nil {
		return nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errObject
	}
	return object, nil
}

func decode(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, errObject
	}
	switch token := token.(type) {
	case json.Delim:
		if depth == MaxDepth {
			return nil, errDepth
		}
		if token == '{' {
			return decodeObject(d, depth)
		}
		return decodeArray(d, depth)
	case json.Number:
		return decodeNumber(token.String())
	default:
		return token, nil
	}
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	object, folded := map[string]any{}, map[string]bool{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errObject
		}
		if _, twice := object[name]; twice {
			return nil, errTwice
		}
		alike := fold(name)
		if folded[alike] {
			return nil, errCase
		}
		folded[alike] = true
		if object[name], err = decode(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

// fold returns the same for names that are the same but for case, as encoding/json compares them, by which many tools
// read their params.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		for {
			next := unicode.SimpleFold(c)
			if next <= c { // the first one of those that are the same
				return next
			}
			c = next
		}
	}, name)
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		item, err := decode(d, depth+1)
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	_, err := d.Token()
	return array, err
}

// decodeNumber keeps whole numbers whole, so that none is rounded to one that a condition allows.
func decodeNumber(text string) (any, error) {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return u, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, errNumber
	}
	return f, nil
}

// CheckParams reports why params cannot be decided on, by a rule or by somebody who reads them: they are no
// JSON object, or two readers could understand them differently.
func CheckParams(params []byte) error {
	_, err := decodeParams(params)
	return err
}
