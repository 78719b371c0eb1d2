// What ggml's two Objective-C files use of Apple's Foundation, as far as it must be declared to compile.
// softmetal implements what runs (device/foundation.cpp); a method that is missing there aborts with its name.
#pragma once

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct objc_object * id;
typedef struct objc_class * Class;
typedef struct objc_selector * SEL;
typedef bool BOOL;
typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef unsigned char uchar;

#define nil ((void *) 0)
#define YES true
#define NO false

typedef struct { NSUInteger location, length; } NSRange;
static inline NSRange NSMakeRange(NSUInteger location, NSUInteger length) { return (NSRange) { location, length }; }

typedef struct {
    unsigned long state;
    id __unsafe_unretained * itemsPtr;
    unsigned long * mutationsPtr;
    unsigned long extra[5];
} NSFastEnumerationState;

typedef NSUInteger NSStringEncoding;
enum { NSUTF8StringEncoding = 4 };

__attribute__((objc_root_class))
@interface NSObject { Class isa; }
+ (instancetype) alloc;
+ (instancetype) new;
- (instancetype) init;
- (instancetype) retain;
- (void) release;
- (id) description;
- (Class) class;
+ (Class) class;
@end

@class NSURL, NSError;

@interface NSCharacterSet : NSObject
+ (NSCharacterSet *) whitespaceCharacterSet;
@end

@interface NSArray<ObjectType> : NSObject
@property (readonly) NSUInteger count;
+ (instancetype) arrayWithObjects: (const id *) objects count: (NSUInteger) count;
- (ObjectType) objectAtIndexedSubscript: (NSUInteger) index;
- (NSUInteger) countByEnumeratingWithState: (NSFastEnumerationState *) state objects: (id *) buffer count: (NSUInteger) count;
@end

@interface NSMutableArray<ObjectType> : NSArray<ObjectType>
- (void) addObject: (ObjectType) object;
- (void) removeObject: (ObjectType) object;
- (void) removeAllObjects;
@end

@interface NSString : NSObject
@property (readonly) const char * UTF8String;
@property (readonly) NSUInteger length;
+ (instancetype) stringWithUTF8String: (const char *) text;
+ (instancetype) stringWithCString: (const char *) text encoding: (NSStringEncoding) encoding;
+ (instancetype) stringWithFormat: (NSString *) format, ...;
+ (instancetype) stringWithContentsOfFile: (NSString *) path encoding: (NSStringEncoding) encoding error: (NSError **) error;
+ (NSString *) pathWithComponents: (NSArray *) components;
- (instancetype) initWithBytes: (const void *) bytes length: (NSUInteger) length encoding: (NSStringEncoding) encoding;
- (bool) containsString: (NSString *) other;
- (bool) isEqualToString: (NSString *) other;
- (bool) hasPrefix: (NSString *) other;
- (NSArray *) componentsSeparatedByString: (NSString *) separator;
- (NSString *) stringByTrimmingCharactersInSet: (NSCharacterSet *) set;
- (NSString *) stringByAppendingPathComponent: (NSString *) name;
- (NSString *) stringByAppendingPathExtension: (NSString *) extension;
- (NSString *) stringByDeletingLastPathComponent;
- (NSString *) stringByStandardizingPath;
- (NSString *) substringToIndex: (NSUInteger) index;
@end

@interface NSConstantString : NSString { const char * text; unsigned size; }
@end

@interface NSMutableString : NSString
- (void) appendString: (NSString *) text;
@end

@interface NSNumber : NSObject
+ (instancetype) numberWithInt: (int) value;
- (int) intValue;
- (NSString *) stringValue;
@end

@interface NSDictionary<KeyType, ObjectType> : NSObject
+ (instancetype) dictionary;
+ (instancetype) dictionaryWithObjects: (const id *) objects forKeys: (const id *) keys count: (NSUInteger) count;
- (ObjectType) objectForKey: (KeyType) key;
- (ObjectType) objectForKeyedSubscript: (KeyType) key;
@end

@interface NSMutableDictionary<KeyType, ObjectType> : NSDictionary<KeyType, ObjectType>
- (void) setObject: (ObjectType) object forKey: (KeyType) key;
- (void) setObject: (ObjectType) object forKeyedSubscript: (KeyType) key;
@end

@interface NSSet<ObjectType> : NSObject
+ (instancetype) set;
+ (instancetype) setWithArray: (NSArray *) array;
- (bool) containsObject: (ObjectType) object;
@end

@interface NSMutableSet<ObjectType> : NSSet<ObjectType>
- (void) addObject: (ObjectType) object;
@end

@interface NSError : NSObject
@property (readonly) NSString * localizedDescription;
+ (instancetype) errorWithDomain: (NSString *) domain code: (NSInteger) code userInfo: (NSDictionary *) info;
@end

// Caught by upstream; nothing here throws one.
@interface NSException : NSObject
@property (readonly) NSString * name;
@property (readonly) NSString * reason;
@end

@interface NSLock : NSObject
- (void) lock;
- (void) unlock;
@end

@interface NSScanner : NSObject
@property (retain) NSCharacterSet * charactersToBeSkipped;
+ (instancetype) scannerWithString: (NSString *) text;
- (bool) scanString: (NSString *) text intoString: (NSString **) found;
- (bool) scanUpToString: (NSString *) text intoString: (NSString **) found;
@end

@interface NSFileManager : NSObject
+ (instancetype) defaultManager;
- (bool) isReadableFileAtPath: (NSString *) path;
- (NSDictionary *) attributesOfItemAtPath: (NSString *) path error: (NSError **) error;
- (NSString *) destinationOfSymbolicLinkAtPath: (NSString *) path error: (NSError **) error;
@end

@interface NSProcessInfo : NSObject
@property (readonly) NSArray<NSString *> * arguments;
@property (readonly) NSDictionary<NSString *, NSString *> * environment;
+ (instancetype) processInfo;
@end

@interface NSBundle : NSObject
+ (instancetype) bundleForClass: (Class) which;
- (NSString *) pathForResource: (NSString *) name ofType: (NSString *) extension;
@end

@interface NSURL : NSObject
+ (instancetype) fileURLWithPath: (NSString *) path;
@end

extern NSString * const NSLocalizedDescriptionKey;
extern NSString * const NSFileType;
extern NSString * const NSFileTypeSymbolicLink;

// Blocks, and the part of libdispatch that the backend uses. Everything runs at once, in the calling thread.
void * _Block_copy(const void * block);
void _Block_release(const void * block);
#define Block_copy(...) ((__typeof(__VA_ARGS__)) _Block_copy((const void *) (__VA_ARGS__)))
#define Block_release(...) _Block_release((const void *) (__VA_ARGS__))

typedef struct softmetal_dispatch * dispatch_queue_t;
typedef struct softmetal_dispatch * dispatch_group_t;
typedef struct softmetal_dispatch * dispatch_semaphore_t;
#define DISPATCH_TIME_FOREVER (~0ull)
#define DISPATCH_QUEUE_CONCURRENT ((void *) 0)
enum { QOS_CLASS_DEFAULT = 21, QOS_CLASS_USER_INITIATED = 25 };

dispatch_queue_t dispatch_queue_create(const char * label, void * attributes);
dispatch_queue_t dispatch_get_global_queue(long quality, unsigned long flags);
dispatch_group_t dispatch_group_create(void);
void dispatch_group_async(dispatch_group_t group, dispatch_queue_t queue, void (^block)(void));
long dispatch_group_wait(dispatch_group_t group, uint64_t timeout);
void dispatch_apply(size_t count, dispatch_queue_t queue, void (^block)(size_t));
dispatch_semaphore_t dispatch_semaphore_create(long value);
long dispatch_semaphore_wait(dispatch_semaphore_t semaphore, uint64_t timeout);
long dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
void dispatch_release(void * object);
